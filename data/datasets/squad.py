"""SQuAD 1.1 and 2.0: from the JSON file to features, window for window as Google's run_squad.py makes them.

A question and its context that do not fit one sequence become several features, windows over the context that start
`doc_stride` tokens apart. Google tokenizes a context anew for every question; here it is done once for all of them,
and once for every distinct word.

S is the sequence length, L the number of a context's tokens in one window.
"""

from __future__ import annotations

import bisect
import hashlib
import multiprocessing
import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from configs.cli import to_flat_dict, warn
from configs.squad import FeatureFlags, SquadDataConfig
from conversion.tokenizer_files import read_vocabulary
from data.preparation.pieces import Progress, finish, open_work, plan_sha256
from data.records.ofrecord import ShardWriter, squad_schema, write_atomically, write_dataset_json
from data.text.tokenization import BulkTokenizer
from utils.errors import UserError
from utils.json_file import read_json

FIRST_UNIQUE_ID = 1_000_000_000  # a feature's unique id is this plus its place in the data set
_WORD = re.compile("[^ \t\r\n\u202f]+")  # Google's whitespace for contexts: these five and no others
_WORDS_PER_CHUNK = 50_000
_Chunk = tuple[int, Sequence["SquadExample"]]  # the number of its first example, and its examples


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@dataclass(frozen=True)
class SquadExample:
    """One question about one context, with Google's names; positions count words, and -1 means "no answer"."""

    qas_id: str
    question_text: str
    doc_tokens: list[str]  # the context's words, one list for all the questions of a paragraph
    orig_answer_text: str = ""
    start_position: int = -1
    end_position: int = -1
    is_impossible: bool = False


def read_squad_json(path: str | Path, *, answers_only: bool = False) -> list[dict[str, Any]]:
    """The articles of a SQuAD file, its form checked down to every question.

    Args:
        path: the file.
        answers_only: it may lack what scoring does not need: contexts, the questions' words and the answers' places.

    Raises:
        UserError: the file cannot be read, is not JSON or not SQuAD; the message says where.
    """
    place = str(path)
    articles = _field(read_json(path), "data", list, place)
    for i, article in enumerate(articles):
        for j, paragraph in enumerate(_field(article, "paragraphs", list, f"{place}: data[{i}]")):
            place_of_paragraph = f"{place}: data[{i}].paragraphs[{j}]"
            _field(paragraph, "context", str, place_of_paragraph, optional=answers_only)
            for k, question in enumerate(_field(paragraph, "qas", list, place_of_paragraph)):
                place_of_question = f"{place_of_paragraph}.qas[{k}]"
                _field(question, "id", str, place_of_question)
                _field(question, "question", str, place_of_question, optional=answers_only)
                _field(question, "is_impossible", bool, place_of_question, optional=True)
                for m, answer in enumerate(_field(question, "answers", list, place_of_question, optional=True)):
                    _field(answer, "text", str, f"{place_of_question}.answers[{m}]")
                    _field(answer, "answer_start", int, f"{place_of_question}.answers[{m}]", optional=answers_only)
    return articles


def questions(articles: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every question of `read_squad_json`'s articles, in the file's order."""
    return (question for article in articles for paragraph in article["paragraphs"] for question in paragraph["qas"])


def read_squad_examples(path: str | Path, *, is_training: bool, version_2_with_negative: bool) -> list[SquadExample]:
    """The questions of a SQuAD file as Google's read_squad_examples gives them.

    In training, a question whose answer cannot be found in the words at its offset is left out, as at Google's, and so
    is one without text. Of several answers (Google's takes one only) the first that stands alone in the text is
    learnt, else the first. For evaluation every question stays.

    Raises:
        UserError: the file is not SQuAD, is empty, has the same id twice, or has unanswerable questions although
            `version_2_with_negative` is not set.
    """
    articles = read_squad_json(path)
    examples: list[SquadExample] = []
    seen: set[str] = set()
    misplaced = empty = 0
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        words = list(_WORD.finditer(paragraph["context"]))
        doc_tokens = [word.group() for word in words]
        word_starts = [word.start() for word in words]
        for question in paragraph["qas"]:
            if question["id"] in seen:
                raise UserError(f"{path}: two questions have the id {question['id']!r}; ids must be unique.")
            seen.add(question["id"])
            is_impossible = question.get("is_impossible", False)
            if is_impossible and not version_2_with_negative:
                raise UserError(
                    f"{path}: question {question['id']!r} is marked unanswerable, so this is a SQuAD 2.0 file: "
                    "pass --version_2_with_negative True."
                )
            empty += not question["question"].strip()
            example = SquadExample(question["id"], question["question"], doc_tokens, is_impossible=is_impossible)
            if is_training:
                if not example.question_text.strip():
                    continue
                if not is_impossible:
                    answered = _with_answer(example, question, paragraph["context"], word_starts, path)
                    misplaced += answered is None
                    if answered is None:
                        continue
                    example = answered
            examples.append(example)
    if not seen:
        raise UserError(f"{path} holds no question.")
    left = "left out" if is_training else "kept"
    if misplaced:
        warn(f"{path}: {misplaced} of {len(seen)} questions have an answer that is not at its offset; left out.")
    if empty:
        warn(f"{path}: {empty} of {len(seen)} questions have no text; {left}.")
    if not examples:
        raise UserError(f"{path}: none of its {len(seen)} questions can be trained on; check answer_start and text.")
    return examples


def _field(value: Any, name: str, kind: type, place: str, *, optional: bool = False) -> Any:
    what = {list: "a list", str: "a text", int: "a whole number", bool: "true or false"}[kind]
    if not isinstance(value, dict):
        raise UserError(f"{place} is not an object with {name!r}: this is not a SQuAD file.")
    if optional and name not in value:
        return kind()
    if type(value.get(name)) is not kind:
        raise UserError(f"{place} has no {name!r} that is {what}: this is not a SQuAD file.")
    if kind is str and not value[name].isascii():
        try:
            value[name].encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{place}: {name!r} is no text at character {error.start}: a lone surrogate.") from None
    return value[name]


def _with_answer(
    example: SquadExample, question: dict[str, Any], context: str, word_starts: list[int], path: str | Path
) -> SquadExample | None:
    """The example with its answer's words, or None where the first answer's are not at its offset."""
    answers = question.get("answers")
    if not answers:
        raise UserError(f"{path}: question {example.qas_id!r} has no answer to train on.")
    found = [_at_offset(example, answer, len(context), word_starts) for answer in answers]
    if found[0] is None:
        return None
    whole = (e for e, answer in zip(found, answers, strict=True) if e and _stands_alone(answer, context))
    return next(whole, found[0])


def _at_offset(
    example: SquadExample, answer: dict[str, Any], context_length: int, word_starts: list[int]
) -> SquadExample | None:
    text, first = answer["text"], answer["answer_start"]
    last = first + len(text) - 1
    if not text.strip() or first < 0 or last >= context_length:
        return None
    start, end = (bisect.bisect_right(word_starts, offset) - 1 for offset in (first, last))
    if start < 0 or " ".join(text.split()) not in " ".join(example.doc_tokens[start : end + 1]):
        return None
    return SquadExample(example.qas_id, example.question_text, example.doc_tokens, text, start, end)


def _stands_alone(answer: dict[str, Any], context: str) -> bool:
    """Whether no letter or digit touches the answer: "8" in "20-18" is no good lesson where "eight" is right too."""
    start = answer["answer_start"]
    end = start + len(answer["text"])
    around = (context[start - 1] if start else " ") + (context[end] if end < len(context) else " ")
    return not any(character.isalnum() for character in around)


# ---------------------------------------------------------------------------------------------------------------------
# Features


@dataclass(frozen=True, slots=True)
class SquadFeature:
    """One window of one question: `[CLS] question [SEP] window [SEP]`, not padded.

    The window's tokens stand at `doc_offset` and after; the two arrays tell of each its word in the context
    (`token_to_orig_map`) and whether no other window gives it more context (`token_is_max_context`), as at Google's.
    """

    example_index: int
    doc_span_index: int
    input_ids: np.ndarray  # [2 + question + L + 1] int32
    doc_offset: int
    token_to_orig_map: np.ndarray  # [L] int32
    token_is_max_context: np.ndarray  # [L] bool
    start_position: int  # in input_ids; 0 where this window has no answer
    end_position: int

    def record(self, seq_length: int) -> dict[str, np.ndarray]:
        """The feature padded to `seq_length`: input_ids, input_mask and segment_ids [S], the positions [1]."""
        length = len(self.input_ids)
        input_ids, input_mask, segment_ids = np.zeros((3, seq_length), np.int32)
        input_ids[:length] = self.input_ids
        input_mask[:length] = 1
        segment_ids[self.doc_offset : length] = 1
        return {
            "input_ids": input_ids,
            "input_mask": input_mask,
            "segment_ids": segment_ids,
            "start_positions": np.array([self.start_position], np.int32),
            "end_positions": np.array([self.end_position], np.int32),
        }


def convert_examples_to_features(
    examples: Sequence[SquadExample], settings: FeatureFlags, *, num_workers: int | None = None
) -> Iterator[SquadFeature]:
    """All windows of all examples, in order; a feature's unique id is FIRST_UNIQUE_ID plus its place.

    Args:
        examples: from `read_squad_examples`; those without an answer get positions 0.
        settings: the tokenizer, and Google's three lengths.
        num_workers: processes (default: one per core).
    """
    chunks = list(_chunks(examples))
    num_workers = min(num_workers or os.cpu_count() or 1, len(chunks))
    if num_workers < 2:
        converter = _Converter(settings)
        for chunk in chunks:
            yield from converter.features(*chunk)
        return
    yield from _in_processes(chunks, settings, num_workers)


def _chunks(examples: Sequence[SquadExample]) -> Iterator[_Chunk]:
    """Runs of examples of about the same work, each with the number of its first."""
    first = words = 0
    for number, example in enumerate(examples, 1):
        words += len(example.doc_tokens)
        if words >= _WORDS_PER_CHUNK or number == len(examples):
            yield first, examples[first:number]
            first, words = number, 0


def doc_spans(num_tokens: int, max_tokens: int, doc_stride: int) -> list[tuple[int, int]]:
    """The windows (start, length) over a context of `num_tokens`, each of at most `max_tokens`."""
    stride = min(max_tokens, doc_stride)
    windows = max(0, -(-(num_tokens - max_tokens) // stride)) + (num_tokens > 0)
    return [(i * stride, min(max_tokens, num_tokens - i * stride)) for i in range(windows)]


def max_context(spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """For every window, which of its tokens [L] have their best place there.

    A token's score in a window is the smaller of its left and right context plus a hundredth of the window's length;
    the first of the best windows has it (Google's _check_is_max_context).
    """
    if len(spans) == 1:
        return [np.ones(spans[0][1], bool)]
    best_score = np.full(spans[-1][0] + spans[-1][1] if spans else 0, -np.inf)
    best_window = np.zeros(len(best_score), np.int64)
    for index, (start, length) in enumerate(spans):
        left = np.arange(length)
        score = np.minimum(left, length - 1 - left) + 0.01 * length
        here = slice(start, start + length)
        better = score > best_score[here]
        best_window[here][better] = index
        best_score[here][better] = score[better]
    return [best_window[start : start + length] == index for index, (start, length) in enumerate(spans)]


class _Converter:
    """One process's tokenizer."""

    def __init__(self, settings: FeatureFlags) -> None:
        self.settings = settings
        vocabulary = read_vocabulary(settings.vocab_file or "", settings.do_lower_case)
        self.tokenizer = BulkTokenizer(vocabulary.ids, *vocabulary.rules)
        self.cls, self.sep = vocabulary.ids["[CLS]"], vocabulary.ids["[SEP]"]

    def features(self, first_index: int, examples: Sequence[SquadExample]) -> Iterator[SquadFeature]:
        queries = self._tokenize([example.question_text for example in examples])
        answers = self._tokenize([example.orig_answer_text for example in examples])
        rows = zip(range(first_index, first_index + len(examples)), examples, queries, answers, strict=True)
        for _, paragraph in groupby(rows, key=lambda row: id(row[1].doc_tokens)):
            context: _Context | None = None
            for index, example, query, answer in paragraph:
                context = context or self._context(example.doc_tokens)
                yield from self._windows(index, example, query[: self.settings.max_query_length], answer, context)

    def _tokenize(self, texts: list[str]) -> list[np.ndarray]:
        ids, counts = self.tokenizer.encode(texts)
        return np.split(ids, counts.cumsum()[:-1])

    def _context(self, doc_tokens: list[str]) -> _Context:
        ids, counts = self.tokenizer.encode(doc_tokens)
        return _Context(
            ids=ids,
            word=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            first=np.concatenate([[0], counts.cumsum()]),
        )

    def _windows(
        self, index: int, example: SquadExample, query: np.ndarray, answer: np.ndarray, context: _Context
    ) -> Iterator[SquadFeature]:
        max_tokens = self.settings.max_seq_length - len(query) - 3  # [CLS], [SEP] and [SEP]
        spans = doc_spans(len(context.ids), max_tokens, self.settings.doc_stride)
        head = np.concatenate([[self.cls], query, [self.sep]])
        tok_start, tok_end = -1, -1
        if example.start_position >= 0:
            tok_start = int(context.first[example.start_position])
            tok_end = int(context.first[example.end_position + 1]) - 1
            tok_start, tok_end = improve_answer_span(context.ids, tok_start, tok_end, answer)
        for i, ((start, length), best) in enumerate(zip(spans, max_context(spans), strict=True)):
            here = slice(start, start + length)
            answer_is_here = start <= tok_start and tok_end < start + length
            shift = len(head) - start
            yield SquadFeature(
                example_index=index,
                doc_span_index=i,
                input_ids=np.concatenate([head, context.ids[here], [self.sep]], dtype=np.int32),
                doc_offset=len(head),
                token_to_orig_map=context.word[here],
                token_is_max_context=best,
                start_position=tok_start + shift if answer_is_here else 0,
                end_position=tok_end + shift if answer_is_here else 0,
            )


@dataclass(frozen=True)
class _Context:
    ids: np.ndarray  # [tokens] int32
    word: np.ndarray  # [tokens] int32, each token's word
    first: np.ndarray  # [words + 1], each word's first token


def improve_answer_span(doc_ids: np.ndarray, start: int, end: int, answer_ids: np.ndarray) -> tuple[int, int]:
    """The first place within tokens `start` to `end` (inclusive) that reads exactly as the answer, else these two.

    An answer may be part of a word: "1895" of "(1895-1943)." (Google's _improve_answer_span).
    """
    for new_start in range(start, end - len(answer_ids) + 2 if len(answer_ids) else start):
        if np.array_equal(doc_ids[new_start : new_start + len(answer_ids)], answer_ids):
            return new_start, new_start + len(answer_ids) - 1
    return start, end


def _in_processes(chunks: Sequence[_Chunk], settings: FeatureFlags, num_workers: int) -> Iterator[SquadFeature]:
    """Chunk after chunk, each worker having one at a time, so that memory stays flat.

    The library's executor hangs when a worker is killed while large arguments wait for it (Python 3.10); a pipe of its
    own for each worker cannot.
    """
    context = multiprocessing.get_context("spawn")  # not forked: the parent may hold a framework's threads
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, settings), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        for number in range(len(chunks) + num_workers):
            _, pipe = workers[number % num_workers]
            done = pipe.recv() if number >= num_workers else []
            if number < len(chunks):
                pipe.send(chunks[number])
            yield from done
    except (EOFError, OSError):
        raise UserError("a worker process was lost (was memory short?); run the same command again.") from None
    finally:
        for worker, _ in workers:
            worker.terminate()
            worker.join()


def _work(pipe: Connection, settings: FeatureFlags) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes already fill the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    converter = _Converter(settings)
    try:
        while True:
            pipe.send(list(converter.features(*pipe.recv())))
    except (EOFError, OSError):
        return  # the parent is gone


# ---------------------------------------------------------------------------------------------------------------------
# Shards


def prepare(config: SquadDataConfig) -> None:
    """`prepare_data.py squad`: a SQuAD file becomes shards of features and their dataset.json.

    A set that the same flags made of the same files is left as it is.

    Raises:
        UserError: see `read_squad_examples`, `read_vocabulary` and `open_work`.
    """
    output, flags = Path(config.output_dir), config.features
    vocabulary = read_vocabulary(flags.vocab_file or "", flags.do_lower_case)
    vocabulary.warn_of_contradictions(flags.do_lower_case)
    examples = read_squad_examples(
        config.input_file, is_training=config.is_training, version_2_with_negative=flags.version_2_with_negative
    )
    if config.num_shards > len(examples):
        raise UserError(f"--num_shards {config.num_shards} is more than the {len(examples)} questions.")
    plan = features_plan(config)
    work = open_work(output, plan, overwrite=config.overwrite_output_dir)
    if work is None:
        print(f"{output}: complete already")
        return
    schema = squad_schema(flags.max_seq_length, config.is_training)
    features = convert_examples_to_features(examples, flags, num_workers=config.num_workers)
    with ExitStack() as stack, Progress("features", len(examples), "questions") as progress:
        files = (output / f"part-{i:05}" for i in range(config.num_shards))
        writers = [stack.enter_context(ShardWriter(file, schema)) for file in files]
        done = tokens = unknown = 0
        for unique_id, feature in enumerate(features, FIRST_UNIQUE_ID):
            record = feature.record(flags.max_seq_length) | {"unique_ids": np.array([unique_id], np.int32)}
            tokens += int(record["input_mask"].sum())
            unknown += int((record["input_ids"] == vocabulary.ids["[UNK]"]).sum())
            writers[feature.example_index * config.num_shards // len(examples)].write(record)
            progress.update(feature.example_index + 1 - done)
            done = feature.example_index + 1
    for name, content in vocabulary.files_beside_records().items():
        write_atomically(output / name, content)
    write_dataset_json(
        output,
        schema=schema,
        shards=[writer.shard for writer in writers],
        objective="squad",
        seq_length=flags.max_seq_length,
        **vocabulary.rules_of_records(),
        vocab_size=vocabulary.size,
        vocab_sha256=plan["vocab_sha256"],
        plan_sha256=plan_sha256(work),
        made_by=to_flat_dict(config) | {"do_lower_case": vocabulary.rules.do_lower_case},
    )
    finish(output)
    print(
        f"{output}: {sum(writer.count for writer in writers)} features of {len(examples)} questions "
        f"({unknown / tokens:.2%} of the tokens are unknown)"
    )


def features_plan(config: SquadDataConfig) -> dict[str, Any]:
    """Everything that decides what the shards hold."""
    vocabulary = read_vocabulary(config.features.vocab_file or "", config.features.do_lower_case)
    places_and_speed = ("input_file", "output_dir", "vocab_file", "num_workers", "overwrite_output_dir")
    return {
        **{name: value for name, value in to_flat_dict(config).items() if name not in places_and_speed},
        "input_sha256": hashlib.sha256(Path(config.input_file).read_bytes()).hexdigest(),
        "vocab_sha256": vocabulary.sha256,
        **vocabulary.rules_of_records(),
    }
