"""Implements run_infer.py: reads rows from flags, a file or a prompt; writes answers as tables or JSON lines.

This is the only module of the package that uses flags.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from tqdm import tqdm

from configs.infer import InferConfig
from inference.errors import ArgumentError
from inference.model import Model, load
from inference.packed import AskedPrecision
from inference.pipelines import Pipeline
from inference.runner import Mode
from inference.search import VectorFile
from utils.errors import UserError
from utils.messages import warn

_MOST_LINE_BYTES = 16 << 20
# Column names in the headers of public data sets.
_COLUMNS = frozenset(
    "id idx index text text_a text_b text_pair sentence sentence1 sentence2 label labels score class category target "
    "premise hypothesis question question1 question2 context answer answers title review".split()
)
# The flags whose arguments have a different name.
_FLAGS = {"max_predictions": "max_predictions_per_seq"}


def infer(config: InferConfig) -> None:
    """Loads the model and answers the rows that the flags select.

    Raises:
        UserError: the model, the task or a text from a flag cannot be used.
    """
    try:
        _infer(config)
    except ArgumentError as error:
        raise _in_flags(error) from None


def _infer(config: InferConfig) -> None:
    _check_other_file(config.rows.input_path, config.rows.output_path)
    model = load(
        config.model.model_path,
        mode=cast(Mode | None, config.speed.mode),
        device=config.speed.device,
        precision=cast(AskedPrecision, "fp16" if config.speed.use_fp16 else config.speed.precision),
        int8_keep=config.speed.int8_keep,
        batch_size=config.speed.batch_size,
        seq_length=config.speed.seq_length,
        vocab_file=config.model.vocab_file,
        do_lower_case=config.model.do_lower_case,
        source="lazy" if config.model.use_lazy_model else "auto",
        config=config.model.config_file,
        sizes=config.sizes.given(),
        trust_checkpoint=config.model.trust_checkpoint,
    )
    task = config.rows.task or model.tasks[0]
    asked = _rows_of_flags(config)
    if not model.has_vocabulary and not asked and not config.rows.input_path and task == "fill-mask":
        _show_fixed(model)
        return
    options = _options(config, task)
    if config.rows.corpus_path:
        options["corpus"] = model.corpus(
            config.rows.corpus_path, pooling=options["pooling"], dimensions=options["dimensions"]
        )
    pipeline = model.pipeline(task, **options)
    if asked:
        _write(config, task, ((row, _raised(answer)) for row, answer in _answered(model, task, options, asked)))
    elif config.rows.input_path or not sys.stdin.isatty():
        rows = _rows_of_file(config.rows.input_path or "-", pipeline)
        _write(config, task, _answered(model, task, options, rows))
    else:
        _write(config, task, _conversation(model, task, options, pipeline))


def _options(config: InferConfig, task: str) -> dict[str, Any]:
    """The options of the task's pipeline, from the flags."""
    options: dict[str, dict[str, Any]] = {
        "fill-mask": {"top_k": config.rows.top_k or 5, "max_predictions": config.rows.max_predictions_per_seq},
        "question-answering": {
            "top_k": config.rows.top_k or 1,
            "max_answer_length": config.rows.max_answer_length,
            "doc_overlap": config.rows.doc_overlap,
            "may_be_empty": config.rows.version_2_with_negative,
            "align_to_words": config.rows.align_to_words,
        },
        "text-classification": {"long_text": config.rows.long_text} if config.rows.long_text else {},
        "token-classification": {"aggregation_strategy": config.rows.aggregation_strategy},
    }
    vectors = {"pooling": config.rows.pooling, "dimensions": config.rows.dimensions}
    options |= {"feature-extraction": vectors, "similarity": vectors}
    options["search"] = {**vectors, "top_k": config.rows.top_k or 10}
    if config.speed.seq_length:
        options["question-answering"]["seq_length"] = config.speed.seq_length
    return options.get(task, {})


def _rows_of_flags(config: InferConfig) -> list[dict[str, Any]]:
    if config.rows.question is not None:
        return [{"question": config.rows.question, "context": config.rows.context}]
    return [{"text": text, "text_pair": config.rows.text_pair} for text in config.rows.text]


def _rows_of_file(path: str, pipeline: Pipeline) -> Iterator[dict[str, Any] | UserError]:
    """Yields a row for each line, or a UserError for a line that cannot be used.

    Raises:
        UserError: the file cannot be read, or has no lines.
    """
    try:
        file: BinaryIO = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"--input_path {path} cannot be read: {error.strerror}.") from None
    with file:
        number = 0
        while line := file.readline(_MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > _MOST_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(_MOST_LINE_BYTES)
                yield UserError(f"line {number} is longer than {_MOST_LINE_BYTES >> 20} MB.")
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")  # the file may begin with a byte-order mark
                text = text.rstrip("\r\n")
                if number == 1:
                    _check_no_header(path, text)
                yield _row(text, number, pipeline)
            except UnicodeDecodeError:
                yield UserError(f"line {number} is not valid UTF-8.")
    if not number:
        raise UserError(f"--input_path {path} contains no lines: pass --text, or a file with one text per line.")


def _check_no_header(path: str, line: str) -> None:
    """Raises UserError if the first line is a table header."""
    for separator, name in (("\t", "tabs"), (",", "commas")):
        columns = [column.strip(' "').lower() for column in line.split(separator)]
        if len(columns) > 1 and _COLUMNS.issuperset(columns):
            raise UserError(
                f"--input_path {path}: line 1, {line!r}, is a header with columns separated by {name}: remove it. "
                "Write only the texts in each line, separated by tabs, or a JSON object."
            )


def _row(line: str, number: int, pipeline: Pipeline) -> dict[str, Any] | UserError:
    """The row of a line: a JSON object, or else the task's texts separated by tabs; an error for any other line."""
    names = pipeline.fields
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            return row
        return UserError(f'line {number} begins with {{ but is not a JSON object: write {{"{names[0]}": "…"}}.')
    texts = line.split("\t")
    if len(texts) > len(names):
        if len(names) == 1:  # in a single text, a tab counts as a space
            return {names[0]: line}
        return UserError(
            f"line {number} has {len(texts)} columns, separated by tabs, but the task needs {len(names)}: "
            f"{', '.join(names)}. Remove the others, or write a JSON object."
        )
    labels = {str(label).lower() for label in getattr(pipeline, "labels", ())}
    if len(texts) > 1 and names[1] == "text_pair" and (texts[1].lower() in labels or _is_number(texts[1])):
        return UserError(
            f"line {number}: the second column, {texts[1]!r}, is a label or a number, not a text: remove the column, "
            "or write a JSON object with text and text_pair."
        )
    return dict(zip(names, texts, strict=False))


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", text))


def _answered(model: Model, task: str, options: dict[str, Any], rows: Any) -> Iterator[tuple[Any, Any]]:
    """Yields (row, answer) in order; only keeps rows that the model has not answered yet in memory."""
    waiting: deque[Any] = deque()

    def remembered() -> Iterator[Any]:
        for row in rows:
            waiting.append(row)
            yield row

    for answer in model.stream(task, remembered(), **options):
        yield waiting.popleft(), _in_flags(answer) if isinstance(answer, UserError) else answer


def _in_flags(error: UserError) -> UserError:
    """The error with the flag's name instead of the argument's."""
    if not isinstance(error, ArgumentError):
        return error
    return UserError(f"--{_FLAGS.get(error.argument, error.argument)} {error.problem}")


def _raised(answer: Any) -> Any:
    if isinstance(answer, UserError):
        raise answer
    return answer


def _conversation(
    model: Model, task: str, options: dict[str, Any], pipeline: Pipeline
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Prompts for rows on the terminal until an empty line or the end of input."""
    print(f"{model.path}: {task}. Enter an empty line to stop.", file=sys.stderr)
    while True:
        row: dict[str, Any] = {}
        for name in pipeline.fields:
            try:
                text = input(f"{name.replace('_', ' ')}> ").strip()
            except EOFError:
                return
            if not text and not row:
                return
            row[name] = text or None
        (pair,) = _answered(model, task, options, [row])
        yield pair


def _write(config: InferConfig, task: str, pairs: Iterator[tuple[Any, Any]]) -> None:
    if task == "feature-extraction" and (config.rows.output_path or "").endswith(".npy"):
        _write_vectors(Path(cast(str, config.rows.output_path)), pairs)
        return
    if config.rows.output_path is None:
        for row, answer in pairs:
            print(_table(task, row, answer), flush=True)
        return
    with _output(config.rows.output_path) as file:
        for row, answer in tqdm(pairs, unit=" rows", disable=not sys.stderr.isatty() or config.rows.output_path == "-"):
            named = {"id": row["id"]} if isinstance(row, Mapping) and "id" in row else {}
            content = {"error": str(answer)} if isinstance(answer, UserError) else {"answer": answer}
            file.write(json.dumps(named | content, ensure_ascii=False) + "\n")


def _write_vectors(path: Path, pairs: Iterator[tuple[Any, Any]]) -> None:
    """Writes pooled vectors as an .npy file, one row per input line; a line without an answer is an error."""
    vectors = VectorFile()
    for number, (_, answer) in enumerate(tqdm(pairs, unit=" rows", disable=not sys.stderr.isatty()), 1):
        if isinstance(answer, UserError):
            raise UserError(f"line {number} has no vector, but {path} needs one for every line: {answer}")
        if isinstance(answer[0], list):
            raise UserError(f"--output_path {path} contains one vector per line: pass --pooling first, mean or max.")
        vectors.append(answer)
    partial = path.with_name(f"{path.name}.partial")
    vectors.save(partial)
    partial.replace(path)


def _check_other_file(input_path: str | None, output_path: str | None) -> None:
    """Raises UserError if the answers would overwrite the rows."""
    paths = [path for path in (input_path, output_path) if path and path != "-" and os.path.exists(path)]
    if len(paths) == 2 and os.path.samefile(*paths):
        raise UserError(f"--output_path {output_path} is the file of --input_path: use another file.")


@contextmanager
def _output(path: str) -> Iterator[TextIO]:
    """Standard output, or a file that gets its final name when it is complete."""
    if path == "-":
        yield sys.stdout
        return
    if Path(path).is_dir():
        raise UserError(f"--output_path {path} is a directory: name a file.")
    partial = Path(path).with_name(f"{Path(path).name}.partial")
    try:
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_path {path} cannot be written: {error.strerror}.") from None
    try:
        with file:
            yield file
        partial.replace(path)
    finally:
        if partial.exists():
            if partial.stat().st_size:
                warn(f"the answers so far are in {partial}.")
            else:
                partial.unlink()


def _table(task: str, row: Any, answer: Any) -> str:
    """Formats one answer as text."""
    if isinstance(answer, UserError):
        return f"error: {answer}\n"
    asked = [str(row[name]) for name in ("text", "text_pair", "question") if row.get(name)]
    lines = [" | ".join(asked)]
    if task == "fill-mask":
        masks = [answer] if isinstance(answer[0], dict) else answer
        for number, best in enumerate(masks, 1):
            lines += [f"  mask {number}"] if len(masks) > 1 else []
            lines += [f"  {one['score']:7.2%}  {one['token_str']:16}{one['sequence']}" for one in best]
    elif task == "feature-extraction":
        first = answer[0] if isinstance(answer[0], list) else answer
        count = f"{len(answer)} vectors" if first is not answer else "a vector"
        lines.append(f"  {count} of {len(first)} numbers: {' '.join(f'{x:.4f}' for x in first[:5])} ...")
    elif task == "token-classification":
        lines += [
            f"  {one['score']:7.2%}  {one.get('entity_group', one.get('entity')):12}{one['word']}" for one in answer
        ]
    elif task == "question-answering":
        lines += [f"  {one['score']:7.2%}  {one['answer'] or '(no answer)'}" for one in answer]
    elif task == "search":
        lines += [f"  {one['score']:9.4f}  {one.get('text', one['number'])}" for one in answer]
    elif task == "similarity":
        lines.append(f"  {answer['score']:9.4f}")
    else:
        lines += [
            f"  {one['score']:9.4f}  {one['label']}" for one in (answer if isinstance(answer, list) else [answer])
        ]
    return "\n".join(lines) + "\n"


def _show_fixed(model: Model) -> None:
    ids, best = model.fixed_example()
    print(
        f"{model.path} has no vocabulary. For the fixed ids\n  {' '.join(map(str, ids))}\n"
        "the most probable ids at the mask are"
    )
    for index, probability in best:
        print(f"  {probability:7.2%}  {index}")
    print("To use text, set the model's vocab.txt with --vocab_file.")
