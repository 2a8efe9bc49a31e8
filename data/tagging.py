"""Reads tagged sentences from CoNLL columns and JSON lines, and converts them to records of windows.

Shapes: `w` words of a set, `r` records, `S` sequence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conversion.tokenizer_files import Vocabulary
from data.tables import read_table, read_text
from data.tag_schemes import Scheme, SchemeError, detect_scheme, to_iob2
from data.tokenization import bulk_tokenizer
from utils.errors import UserError

_DOCUMENT = "-DOCSTART-"
_JSON_LINES = (".jsonl", ".json", ".ndjson")
_SPACES = re.compile(r"[ \t]+")
_CONLLU_COLUMNS, _CONLLU_RANGE = 10, re.compile(r"\d+[-.]\d+")


@dataclass(frozen=True)
class TaggedSentences:
    """A file's sentences.

    Attributes:
        path: the file.
        tokens: the words of each sentence, at least one.
        tags: the tag of each word; None for a set without tags.
        lines: the lines of each sentence's words; in JSON lines, the line of the sentence.
    """

    path: Path
    tokens: list[list[str]]
    tags: list[list[str]] | None
    lines: list[list[int]]

    def __len__(self) -> int:
        return len(self.tokens)

    def location(self, sentence: int, word: int = 0) -> str:
        """The file, the sentence from 1 and its line, for messages."""
        lines = self.lines[sentence]
        return f"{self.path} row {sentence + 1} (line {lines[min(word, len(lines) - 1)]})"

    def first(self, count: int | None) -> TaggedSentences:
        """The first `count` sentences, or all."""
        tags = self.tags if self.tags is None else self.tags[:count]
        return TaggedSentences(self.path, self.tokens[:count], tags, self.lines[:count])

    def in_iob2(self, scheme: Scheme) -> TaggedSentences:
        """Converts the tags from `scheme` to IOB2; raises UserError if they do not follow it."""
        if self.tags is None:
            return self
        tags = []
        for sentence, own in enumerate(self.tags):
            try:
                tags.append(to_iob2(own, scheme))
            except SchemeError as error:
                raise UserError(f"{self.location(sentence, error.word)}: {error}") from None
        return TaggedSentences(self.path, self.tokens, tags, self.lines)

    def scheme(self) -> Scheme:
        """The scheme that all tags follow; if there is none, raises UserError with file and line."""
        assert self.tags is not None
        try:
            return detect_scheme(self.tags)
        except SchemeError as error:
            raise UserError(f"{self.location(error.sentence, error.word)}: {error}") from None


def read_tagged(
    path: str | Path, token_column: str = "1", tag_column: str | None = None, *, tagged: bool = True
) -> TaggedSentences:
    """Reads a tagged corpus: JSON lines (.jsonl, .json or .ndjson, also with .gz), else CoNLL columns.

    Args:
        path: the file.
        token_column, tag_column: in CoNLL, column numbers from 1, or from the end if negative (default: the first and
            the last); in JSON lines, keys (default: tokens and tags).
        tagged: whether to read the tags.

    Raises:
        UserError: the file cannot be read, or a row is damaged. The message gives the file and the row.
    """
    path = Path(path)
    if Path(path.name.removesuffix(".gz")).suffix.lower() in _JSON_LINES:
        names = "tokens" if token_column == "1" else token_column, tag_column or "tags"
        sentences = _read_json_lines(path, *names, tagged)
    else:
        sentences = _read_columns(path, token_column, tag_column or "-1", tagged)
    if not len(sentences):
        raise UserError(f"{path} contains no sentences.")
    return sentences


def _read_json_lines(path: Path, token_name: str, tag_name: str, tagged: bool) -> TaggedSentences:
    table = read_table(path)
    tokens = table.column(token_name, "--token_column")
    tags = table.column(tag_name, "--tag_column") if tagged else None
    for row, words in enumerate(tokens):
        if not _is_words(words):
            raise UserError(f"{table.location(row)}: {token_name!r} is not a list of non-empty words.")
        if tags is None:
            continue
        if not _is_words(tags[row]):
            raise UserError(f"{table.location(row)}: {tag_name!r} is not a list of tags.")
        if len(tags[row]) != len(words):
            raise UserError(
                f"{table.location(row)} has {len(words)} tokens but {len(tags[row])} tags: give each token one tag."
            )
    return TaggedSentences(path, tokens, tags, [[line] for line in table.lines])


def _is_words(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) and word.strip() for word in value)


def _read_columns(path: Path, token_column: str, tag_column: str, tagged: bool) -> TaggedSentences:
    rows: list[list[tuple[int, list[str]]]] = [[]]
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    begins = (line for line in lines if line.strip() and not line.startswith((_DOCUMENT, "#")))
    tabs = "\t" in next(begins, "")  # whether columns are separated by tabs
    width = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(_DOCUMENT):
            rows.append([])
            continue
        if tabs and "\t" not in line and line.startswith("#"):
            continue  # a comment of CoNLL-U, whose columns are separated by tabs
        # Not str.split(), which also splits at no-break spaces within a word.
        fields = line.split("\t") if tabs else _SPACES.split(line.strip(" \t"))
        if len(fields) == _CONLLU_COLUMNS and _CONLLU_RANGE.fullmatch(fields[0]):
            continue  # a contraction of the words that follow, or a word that is not in the text
        width = width or len(fields)
        if len(fields) != width:
            raise UserError(
                f"{path} row {sum(map(bool, rows[:-1])) + 1} (line {number}) has {len(fields)} columns, not {width}."
            )
        rows[-1].append((number, fields))
    sentences = [row for row in rows if row]
    token, tag = _index(path, "token_column", token_column, width), _index(path, "tag_column", tag_column, width)
    if tagged and token == tag:
        raise UserError(
            f"{path} has {width} columns, so --tag_column {tag_column} is the column of the words: choose another."
        )
    for number, row in enumerate(sentences, 1):
        for line_number, fields in row:
            for name, index in (("word", token), ("tag", tag)) if tagged else (("word", token),):
                if not fields[index].strip():
                    raise UserError(f"{path} row {number} (line {line_number}) has no {name}.")
    return TaggedSentences(
        path,
        [[fields[token] for _, fields in row] for row in sentences],
        [[fields[tag] for _, fields in row] for row in sentences] if tagged else None,
        [[number for number, _ in row] for row in sentences],
    )


def _index(path: Path, flag: str, column: str, width: int) -> int:
    """The position of a column from 0."""
    try:
        number = int(column)
    except ValueError:
        raise UserError(f"--{flag} {column!r} is not a column number, which {path} needs.") from None
    if number == 0 or abs(number) > max(width, 1):
        raise UserError(f"--{flag} {column} does not exist: {path} has the columns 1 to {width}.")
    return number - 1 if number > 0 else width + number


def tag_names(sets: Iterable[TaggedSentences]) -> tuple[str, ...]:
    """All tags, "O" first, then the others sorted by type and prefix."""
    found = {tag for each in sets for tags in each.tags or () for tag in tags}
    return tuple(sorted(found, key=lambda tag: (tag != "O", tag.partition("-")[2], tag)))


def windows(lengths: Sequence[int], most: int, stride: int) -> Iterator[tuple[int, int]]:
    """(start, end) of windows over items whose total length is at most `most`, about `stride` apart; each item is in at
    least one window. An item longer than `most` forms a separate window."""
    ends = np.append(0, np.cumsum(lengths))
    start, covered = 0, 0
    while True:
        end = max(int(np.searchsorted(ends, ends[start] + most, "right")) - 1, start + 1)
        if end > covered:
            yield start, end
        covered = end
        if end >= len(lengths):
            return
        start = min(max(int(np.searchsorted(ends, ends[start] + stride, "right")) - 1, start + 1), end)


def best_windows(spans: Sequence[tuple[int, int]], count: int) -> np.ndarray:
    """[count]: the window in which each item has the most context on its shorter side (the first at a tie)."""
    items = np.arange(count)
    context = np.stack(
        [
            np.where((items >= start) & (items < end), np.minimum(items - start, end - 1 - items), -1)
            for start, end in spans
        ]
    )
    best: np.ndarray = context.argmax(axis=0)
    return best


class TagRecords:
    """Tagged sentences as records, `[CLS] words [SEP]`. A sentence that is too long is split into windows.

    The first piece of a word has its tag, in the window in which the word has the most context.

    Attributes:
        lengths: [r] tokens of each record.
        words: [w, 2], the record and the position of each word's first piece, in the order of the file.
    """

    def __init__(
        self,
        sentences: TaggedSentences,
        names: Sequence[str],
        vocabulary: Vocabulary,
        *,
        max_seq_length: int,
        stride: int,
    ) -> None:
        self.sentences, self._width = sentences, max_seq_length
        vocab = vocabulary.ids
        self._cls, self._sep = vocab["[CLS]"], vocab["[SEP]"]
        ids, counts = bulk_tokenizer(vocabulary).encode_words(sentences.tokens)
        pieces = np.split(ids, np.cumsum(counts)[:-1])
        pieces = [piece if len(piece) else np.array([vocab["[UNK]"]], np.int32) for piece in pieces]
        most = max_seq_length - 2
        self._records: list[np.ndarray] = []
        self._sentence: list[int] = []
        words: list[tuple[int, int]] = []
        done = 0
        for number, tokens in enumerate(sentences.tokens):
            own = [piece[:most] for piece in pieces[done : done + len(tokens)]]
            done += len(tokens)
            spans = list(windows([len(piece) for piece in own], most, stride))
            chosen, first = best_windows(spans, len(own)), len(self._records)
            starts = np.cumsum([0, *(len(piece) for piece in own)])
            words += [
                (first + int(window), 1 + int(starts[word] - starts[spans[window][0]]))
                for word, window in enumerate(chosen)
            ]
            self._records += [np.concatenate(own[start:end]) for start, end in spans]
            self._sentence += [number] * len(spans)
        self.words = np.array(words, np.int64)
        self.lengths = np.array([len(record) + 2 for record in self._records], np.uint16)
        self.labels: np.ndarray | None = None  # [w]
        if sentences.tags is not None:
            numbers = {name: number for number, name in enumerate(names)}
            self.labels = np.array([self._number(numbers, s, w) for s, w in _positions(sentences.tokens)], np.int32)
            order = np.argsort(self.words[:, 0], kind="stable")
            self._order, self._begin = order, np.searchsorted(self.words[order, 0], np.arange(len(self) + 1))

    def __len__(self) -> int:
        return len(self._records)

    def location(self, index: int) -> str:
        """The file and line of a record, for messages."""
        return self.sentences.location(self._sentence[index])

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """`input_ids`, `input_mask`, `segment_ids` int32 [r, S] and, for a set with tags, `label_ids` int32 and
        `label_weights` float32 [r, S], which is 1 at the tags."""
        shape = (len(indices), self._width)
        input_ids, input_mask, label_ids = np.zeros((3, *shape), np.int32)
        label_weights = np.zeros(shape, np.float32)
        for row, index in enumerate(np.asarray(indices).tolist()):
            record = self._records[index]
            length = len(record) + 2
            input_ids[row, :length] = [self._cls, *record, self._sep]
            input_mask[row, :length] = 1
            if self.labels is not None:
                own = self._order[self._begin[index] : self._begin[index + 1]]
                label_ids[row, self.words[own, 1]] = self.labels[own]
                label_weights[row, self.words[own, 1]] = 1
        batch = {"input_ids": input_ids, "input_mask": input_mask, "segment_ids": np.zeros_like(input_ids)}
        return batch | ({} if self.labels is None else {"label_ids": label_ids, "label_weights": label_weights})

    def _number(self, numbers: dict[str, int], sentence: int, word: int) -> int:
        assert self.sentences.tags is not None
        tag = self.sentences.tags[sentence][word]
        if tag not in numbers:
            raise UserError(
                f"{self.sentences.location(sentence, word)} has the tag {tag!r}, which the training data lacks: its "
                f"tags are {', '.join(numbers)}."
            )
        return numbers[tag]


def _positions(tokens: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    return ((sentence, word) for sentence, words in enumerate(tokens) for word in range(len(words)))


def tagged_json_lines(tokens: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> str:
    """Returns JSON lines with `tokens` and `tags`, as `read_tagged` reads them."""
    rows = zip(tokens, tags, strict=True)
    return "".join(json.dumps({"tokens": a, "tags": list(b)}, ensure_ascii=False) + "\n" for a, b in rows)
