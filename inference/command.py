"""What run_infer.py does: rows from flags, a file or a prompt; answers as tables or as JSON lines."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from tqdm import tqdm

from configs.cli import warn
from configs.infer import InferConfig
from inference.model import Model, load
from inference.packed import AskedPrecision
from inference.pipelines import Pipeline
from inference.runner import Mode
from utils.errors import UserError

_MOST_LINE_BYTES = 16 << 20


def infer(config: InferConfig) -> None:
    """Loads the model and answers what the flags ask.

    Raises:
        UserError: the model, the task or a text given by a flag cannot be used.
    """
    model = load(
        config.model_path,
        mode=cast(Mode | None, config.mode),
        device=config.device,
        precision=cast(AskedPrecision, config.precision),
        int8_keep=config.int8_keep,
        batch_size=config.batch_size,
        seq_length=config.seq_length,
        vocab_file=config.vocab_file,
        do_lower_case=config.do_lower_case,
        source="lazy" if config.use_lazy_model else "auto",
        config=config.config_file,
        sizes=config.sizes(),
        trust_checkpoint=config.trust_checkpoint,
    )
    task = config.task or model.tasks[0]
    asked = _rows_of_flags(config)
    if not model.has_vocabulary and not asked and not config.input_path and task == "fill-mask":
        _show_fixed(model)
        return
    options = _options(config, task)
    pipeline = model.pipeline(task, **options)
    if asked:
        _write(config, task, ((row, _raised(answer)) for row, answer in _answered(model, task, options, asked)))
    elif config.input_path or not sys.stdin.isatty():
        rows = _rows_of_file(config.input_path or "-", pipeline)
        _write(config, task, _answered(model, task, options, rows))
    else:
        _write(config, task, _conversation(model, task, options, pipeline))


def _options(config: InferConfig, task: str) -> dict[str, Any]:
    """The pipeline's options among the flags."""
    options: dict[str, dict[str, Any]] = {
        "fill-mask": {"top_k": config.top_k or 5, "max_predictions": config.max_predictions_per_seq},
        "question-answering": {
            "top_k": config.top_k or 1,
            "max_answer_length": config.max_answer_length,
            "doc_overlap": config.doc_overlap,
            "may_be_empty": config.version_2_with_negative,
        },
        "feature-extraction": {"pooling": config.pooling},
    }
    if config.seq_length:
        options["question-answering"]["seq_length"] = config.seq_length
    return options.get(task, {})


def _rows_of_flags(config: InferConfig) -> list[dict[str, Any]]:
    if config.question is not None:
        return [{"question": config.question, "context": config.context}]
    return [{"text": text, "text_pair": config.text_pair} for text in config.text]


def _rows_of_file(path: str, pipeline: Pipeline) -> Iterator[dict[str, Any] | UserError]:
    """A row for each line; a line that is none gives the error that says so.

    Raises:
        UserError: the file cannot be read, or has no line.
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
                yield _row(line.decode("utf-8").rstrip("\r\n"), pipeline.fields)
            except UnicodeDecodeError:
                yield UserError(f"line {number} is not valid UTF-8.")
    if not number:
        raise UserError(f"--input_path {path} holds no line: give --text, or a file with one text a line.")


def _row(line: str, fields: tuple[str, ...]) -> dict[str, Any]:
    """A line that is a JSON object is the row; any other is the task's texts, separated by tabs."""
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
            if isinstance(row, dict):
                return row
        except (ValueError, RecursionError):
            pass
    if len(fields) == 1:
        return {fields[0]: line}
    return dict(zip(fields, line.split("\t", len(fields) - 1), strict=False))


def _answered(model: Model, task: str, options: dict[str, Any], rows: Any) -> Iterator[tuple[Any, Any]]:
    """(row, answer) in the rows' order; the rows in flight are as many as the model takes at once."""
    waiting: deque[Any] = deque()

    def remembered() -> Iterator[Any]:
        for row in rows:
            waiting.append(row)
            yield row

    for answer in model.stream(task, remembered(), **options):
        yield waiting.popleft(), answer


def _raised(answer: Any) -> Any:
    if isinstance(answer, UserError):
        raise answer
    return answer


def _conversation(
    model: Model, task: str, options: dict[str, Any], pipeline: Pipeline
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Asks on the terminal until an empty line or the end of input."""
    print(f"{model.path} answers {task}; an empty line ends.", file=sys.stderr)
    while True:
        row: dict[str, Any] = {}
        for name in pipeline.fields:
            try:
                said = input(f"{name.replace('_', ' ')}> ").strip()
            except EOFError:
                return
            if not said and not row:
                return
            row[name] = said or None
        (pair,) = _answered(model, task, options, [row])
        yield pair


def _write(config: InferConfig, task: str, pairs: Iterator[tuple[Any, Any]]) -> None:
    if config.output_path is None:
        for row, answer in pairs:
            print(_table(task, row, answer), flush=True)
        return
    with _output(config.output_path) as file:
        for row, answer in tqdm(pairs, unit=" rows", disable=not sys.stderr.isatty() or config.output_path == "-"):
            named = {"id": row["id"]} if isinstance(row, Mapping) and "id" in row else {}
            content = {"error": str(answer)} if isinstance(answer, UserError) else {"answer": answer}
            file.write(json.dumps(named | content, ensure_ascii=False) + "\n")


@contextmanager
def _output(path: str) -> Iterator[TextIO]:
    """Standard output, or a file that has its name when it is complete."""
    if path == "-":
        yield sys.stdout
        return
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
    """A readable form of one answer."""
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
    elif task == "question-answering":
        lines += [f"  {one['score']:7.2%}  {one['answer'] or '(no answer)'}" for one in answer]
    else:
        lines += [
            f"  {one['score']:9.4f}  {one['label']}" for one in (answer if isinstance(answer, list) else [answer])
        ]
    return "\n".join(lines) + "\n"


def _show_fixed(model: Model) -> None:
    ids, best = model.fixed_example()
    print(
        f"{model.path} holds no vocabulary; for the fixed ids\n  {' '.join(map(str, ids))}\n"
        "the likeliest at the mask are"
    )
    for index, probability in best:
        print(f"  {probability:7.2%}  {index}")
    print("Name the model's vocab.txt with --vocab_file to ask it in words.")
