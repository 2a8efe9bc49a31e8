"""`prepare_data.py pretraining`: text becomes shards of masked sentence pairs, however much text there is.

Three stages, each in restartable pieces (`data.preparation.pieces`), with files in between so that memory stays flat:

1. tokenize: a piece of the input → its tokens on disk (`token_store`),
2. pairs: the documents of one piece, once per `--dupe_factor` → unmasked rows in random order (`instances`),
3. shards: rows from everywhere, shuffled and masked → records (`masking`, `ofrecord`, `json_lines`).

`--output_format tokens` has no second stage: its shards are the tokens of the first one (`token_windows`).

Every random choice is seeded by the seed, the stage and the piece's number, so the records depend on neither the number
of processes nor on interruptions. All rows together come in a uniformly random order: each of stage 2's files is in
random order, how many of its rows go to each part of the output is drawn from the distribution that a shuffle of the
whole would give, and each part is shuffled by itself.
"""

import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np

from configs.cli import to_flat_dict, warn
from configs.prepare import ExampleFlags, PretrainingDataConfig, TextFlags
from conversion.tokenizer_files import Vocabulary, read_vocabulary, vocab_path
from data.preparation.cleaning import input_directories, removed_duplicates, write_text
from data.preparation.duplicates import duplicates_share, hash_texts
from data.preparation.instances import draw_rows, special_tokens
from data.preparation.pieces import (
    Result,
    WorkKeptError,
    discarded_on_mistake,
    finish,
    plan_sha256,
    remove_results,
    results,
    run_pieces,
)
from data.preparation.report import RecordStatistics, describe, write_report
from data.preparation.storage import is_url, remove, stored_plan, upload
from data.preparation.token_store import Corpus, TokenStore, token_dtype, write_piece
from data.reading.masking import Masking, mask_tokens
from data.records.json_lines import encode_json_lines
from data.records.ofrecord import (
    DATASET_JSON,
    Shard,
    ShardWriter,
    encode_records,
    pretraining_schema,
    write_atomically,
    write_dataset_json,
)
from data.records.record_set import Schema
from data.records.token_windows import read_windows, token_schema, write_stream
from data.text.documents import Span, open_input, read_documents, span_bytes
from data.text.tokenization import BulkTokenizer
from utils.errors import UserError

_PAIRS, _ORDER, _SPLIT, _SHUFFLE, _MASK = range(5)  # streams of random numbers
_ROWS_AT_ONCE = 1024
_CELL_SHARE = 16  # rows that are shuffled at once take this part of the memory
_MOST_RECORDS = 10**9 - 1  # numpy draws from no larger population
_SAMPLES = 4  # records shown in the report
_EXTRA = 3  # columns of a row on disk after its ids: length of A, length of B, label
_SPEED_FLAGS = ("num_workers", "runner", "overwrite_output_dir", "work_dir")
_SHARDS = {"ofrecord": ("part-{:05d}", encode_records), "jsonl": ("part-{:05d}.jsonl", encode_json_lines)}


def _generator(example: ExampleFlags, stream: int, *numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([example.random_seed, stream, *numbers]))  # numpy's fastest


def prepare(config: PretrainingDataConfig) -> None:
    """Runs the three stages.

    Raises:
        UserError: no usable input, a vocabulary that does not fit, an output directory that holds something else.
    """
    directory = _directory(config)
    vocabulary = read_vocabulary(config.vocab_file, config.do_lower_case)
    vocabulary.warn_of_contradictions(config.do_lower_case)
    if vocab_path(config.vocab_file).resolve() == directory.resolve() / "vocab.txt":
        raise UserError(
            f"--vocab_file {config.vocab_file} lies where the records will be, and what is there is replaced: "
            "copy it to another directory first."
        )
    settings: dict[str, Any] = {"vocab_sha256": vocabulary.sha256, **vocabulary.rules_of_records()}
    plan = {"command": "pretraining", "example": to_flat_dict(config.example), "num_shards": config.num_shards}
    plan |= {"bin_size": config.bin_size, "remove_duplicates": config.remove_duplicates} | settings
    opened = open_input(config.text, config.work, directory, plan, decides={"num_shards": "shards"})
    if opened is None:
        print(f"{config.output_dir} is complete already")
        return
    work, pieces = opened
    if is_url(config.output_dir) and _is_stored(config, work):
        print(f"{config.output_dir} is complete already")
        remove_results(directory)
        return
    with discarded_on_mistake(work):
        told = _prepare(config, work, pieces, vocabulary, settings)
    if is_url(config.output_dir):
        _store(config, work)
        remove_results(directory)
    else:
        finish(directory)
    print(f"{told} in {config.output_dir}")


def _directory(config: PretrainingDataConfig) -> Path:
    """Where the set is made."""
    return Path(config.work_dir or config.output_dir)


def _is_stored(config: PretrainingDataConfig, work: Path) -> bool:
    """Whether the finished set is there; another one that may be overwritten ceases to be a set."""
    stored = stored_plan(config.output_dir)
    if stored is None or stored == plan_sha256(work):
        return stored is not None
    if not config.work.overwrite_output_dir:
        shutil.rmtree(work)
        raise UserError(
            f"--output_dir {config.output_dir} holds the results of other flags or input; name another directory or "
            "give --overwrite_output_dir."
        )
    remove(config.output_dir)
    return False


def _store(config: PretrainingDataConfig, work: Path) -> None:
    """Copies the finished set to where it belongs; its sign that it is complete goes last."""
    directory = _directory(config)
    files = [file for file in results(directory) if not file.name.startswith(".") and file.name != DATASET_JSON]
    run_pieces(
        work, "upload", _upload, [(file, config.output_dir) for file in files],
        flags=config.work, sizes=[file.stat().st_size for file in files], unit="B",
    )  # fmt: skip
    upload(directory / DATASET_JSON, config.output_dir)


def _upload(work: Path, index: int, file: Path, url: str) -> Result:
    upload(file, url)
    return {}


def _prepare(
    config: PretrainingDataConfig, work: Path, pieces: Sequence[Sequence[Span]], vocabulary: Vocabulary,
    settings: dict[str, Any],
) -> str:  # fmt: skip
    """The three stages; returns what was made."""
    output_dir, vocab = _directory(config), vocabulary.ids
    cleaned = input_directories(pieces)
    if config.remove_duplicates != "none":
        files, _ = write_text(work, pieces, config.text, config.work, config.remove_duplicates, split=False)
        pieces = [[Span(str(file), 0, file.stat().st_size, "text", file.name)] for file in files]
    tokenized = run_pieces(
        work, "tokenize", _tokenize_piece,
        [(piece, config.text, config.vocab_file, config.do_lower_case, _sampling_rate(pieces)) for piece in pieces],
        flags=config.work, sizes=span_bytes(pieces), unit="B",
    )  # fmt: skip
    corpus = _corpus(tokenized, vocab)
    _check_corpus(corpus, config)

    make = _make_stream if config.example.output_format == "tokens" else _make_records
    written = make(config, work, corpus, vocab)
    shards = [Shard(**result["shard"], offsets=_offsets(work, index)) for index, result in enumerate(written)]
    count = sum(shard.records for shard in shards)
    figures = _figures(work, tokenized, len(written), vocab, config)
    for kind, removed in removed_duplicates(work, *cleaned).items():
        figures["corpus"][f"duplicate_{kind}_removed"] = removed
    do_lower_case = vocabulary.rules.do_lower_case
    made_by = to_flat_dict(config) | {"do_lower_case": do_lower_case}
    figures |= {"do_lower_case": do_lower_case, "packing": config.example.packing}
    for warning in write_report(output_dir, figures, _samples(written), f"{output_dir.name}: {count:,} records"):
        warn(warning)
    for name, content in vocabulary.files_beside_records().items():
        write_atomically(output_dir / name, content)
    write_dataset_json(
        output_dir,
        schema=_schema(config.example),
        shards=shards,
        format=config.example.output_format,
        seq_length=config.example.max_seq_length,
        max_predictions_per_seq=config.example.max_predictions_per_seq,
        objective=config.example.objective,
        masking=config.example.masking,
        vocab_size=vocabulary.size,
        cls_id=vocab["[CLS]"],
        sep_id=vocab["[SEP]"],
        **settings,
        made_by={name: value for name, value in made_by.items() if name not in _SPEED_FLAGS},
        plan_sha256=plan_sha256(work),
    )
    unknown = f"{figures['unknown_share']:.2%} of the tokens are unknown"
    return f"{count:,} records of {corpus.documents[-1]:,} documents ({unknown})"


def _make_records(config: PretrainingDataConfig, work: Path, corpus: Corpus, vocab: dict[str, int]) -> list[Result]:
    tasks = _pair_tasks(corpus, config)
    drawn = run_pieces(
        work, "pairs", _draw_piece,
        [(number, dupes, corpus, config, vocab["[CLS]"], vocab["[SEP]"]) for number, dupes in tasks],
        flags=config.work, sizes=[corpus.tokens[number] * len(dupes) for number, dupes in tasks], unit="tokens",
    )  # fmt: skip
    layout = _lay_out(work, [result["rows"] for result in drawn], config, corpus.token_bytes)
    return run_pieces(
        work, "shards", _write_shard,
        [(_directory(config), layout, cells, longest, config.example, vocab)
         for cells, longest in zip(layout.shards, layout.max_lengths, strict=True)],
        flags=config.work, sizes=[sum(layout.cell_rows[cell] for cell in cells) for cells in layout.shards],
        unit="records", intact=_shard_in(_directory(config)),
    )  # fmt: skip


def _shard_in(directory: Path) -> Callable[[Result], bool]:
    """Whether a finished shard still lies in the directory, at its full length."""

    def is_there(result: Result) -> bool:
        file = directory / result["shard"]["file"]
        return file.is_file() and file.stat().st_size == result["shard"]["bytes"]

    return is_there


def _make_stream(config: PretrainingDataConfig, work: Path, corpus: Corpus, vocab: dict[str, int]) -> list[Result]:
    sizes = _shares(sum(corpus.tokens), config.num_shards)
    if min(sizes) < config.example.max_seq_length - 2:
        records = sum(corpus.tokens) // (config.example.max_seq_length - 2)
        raise WorkKeptError(f"--num_shards is {config.num_shards}, but the input gives {records} records only.")
    return run_pieces(
        work, "shards", _write_stream,
        [(_directory(config), corpus, sum(sizes[:index]), size, config.example, vocab)
         for index, size in enumerate(sizes)],
        flags=config.work, sizes=sizes, unit="tokens", intact=_shard_in(_directory(config)),
    )  # fmt: skip


# ---- 1. tokenize ----------------------------------------------------------------------------------------------------


def _tokenize_piece(
    work: Path,
    index: int,
    piece: Sequence[Span],
    text: TextFlags,
    vocab_file: str,
    do_lower_case: bool | None,
    rate: int,
) -> Result:
    tokenizer, vocab = _bulk_tokenizer(vocab_file, do_lower_case)
    documents = list(read_documents(piece, text))
    lines = list(chain.from_iterable(documents))
    # Which lines are looked at depends on the lines alone: equal ones are seen together.
    checksums = np.fromiter(map(zlib.crc32, map(str.encode, lines)), np.uint32, len(lines))
    sampled = compress(lines, checksums % rate == 0)
    (work / _sample_file(index)).write_bytes(hash_texts(sampled).tobytes())
    counts = write_piece(work / _token_file(index), documents, tokenizer, max(vocab.values()) + 1, vocab["[UNK]"])
    capitals = sum(line[0].isupper() for line in lines)
    return counts | {"capitals": capitals, "frequent": _frequent(checksums, rate)}


def _frequent(checksums: np.ndarray, rate: int) -> dict[str, int]:
    """How often lines occur that are one in 200 of a piece's, by checksum: those that the sample of lines misses."""
    values, counts = np.unique(checksums, return_counts=True)
    kept = (counts > len(checksums) / 200) & (counts > 1) & (values % rate != 0)
    return dict(zip(map(str, values[kept].tolist()), counts[kept].tolist(), strict=True))


def _sampling_rate(pieces: Sequence[Sequence[Span]]) -> int:
    """One line in so many is looked at for duplicates: about a million, however large the input."""
    return 1 + sum(span_bytes(pieces)) // (100 << 20)


def _sample_file(number: int) -> str:
    return f"sample-{number:06d}"


def _figures(
    work: Path, tokenized: Sequence[Result], shards: int, vocab: dict[str, int], config: PretrainingDataConfig
) -> dict[str, Any]:
    """What the report tells."""
    frequent = Counter[str]()
    for result in tokenized:
        frequent.update(result["frequent"])
    corpus = {name: sum(result[name] for result in tokenized) for name in tokenized[0] if name != "frequent"}
    corpus["capitals_share"] = corpus.pop("capitals") / max(1, corpus["sentences"])
    sampled = duplicates_share([work / _sample_file(n) for n in range(len(tokenized))])
    lines = max(1, corpus["sentences"])
    others = 1 - sum(frequent.values()) / lines  # the share of lines that the sample stands for
    corpus["duplicate_lines_share"] = sampled * others + sum(count - 1 for count in frequent.values()) / lines
    statistics = _read_statistics(work, 0)
    for index in range(1, shards):
        statistics.merge(_read_statistics(work, index))
    return {"corpus": corpus, **statistics.summary(vocab, to_flat_dict(config), config.example.objective)}


@lru_cache(maxsize=1)
def _bulk_tokenizer(vocab_file: str, do_lower_case: bool | None) -> tuple[BulkTokenizer, dict[str, int]]:
    """One tokenizer a process: it gets faster with every word it has seen."""
    vocabulary = read_vocabulary(vocab_file, do_lower_case)
    return BulkTokenizer(vocabulary.ids, *vocabulary.rules), vocabulary.ids


def _token_file(number: int) -> str:
    return f"tokens-{number:06d}"


def _corpus(tokenized: Sequence[Result], vocab: dict[str, int]) -> Corpus:
    return Corpus(
        files=tuple(_token_file(number) for number in range(len(tokenized))),
        token_bytes=np.dtype(token_dtype(max(vocab.values()) + 1)).itemsize,
        tokens=tuple(result["tokens"] for result in tokenized),
        sentences=tuple(result["sentences"] for result in tokenized),
        documents=np.cumsum([0, *(result["documents"] for result in tokenized)]),
    )


def _check_corpus(corpus: Corpus, config: PretrainingDataConfig) -> None:
    documents = int(corpus.documents[-1])
    named = " ".join(config.text.input_file)
    if not documents:
        raise UserError(f"--input_file {named} holds no text.")
    if documents == 1 and config.example.objective == "nsp":
        without = "" if config.remove_duplicates == "none" else " without its duplicates"
        raise UserError(
            f"--input_file {named} is a single document{without}, and next-sentence prediction takes sentences "
            "from other ones: put a blank line between documents, or give --objective none."
        )

    if config.example.packing == "pairs":  # a sentence begins one record at most, and a document has one at least
        least = 0 if config.example.objective == "sop" else documents
        dupes = config.example.dupe_factor
        _check_count(dupes * least, dupes * sum(corpus.sentences), config)


def _check_count(least: int, most: int, config: PretrainingDataConfig) -> None:
    """Raises UserError where the number of records, between these two, cannot be had."""
    if most < config.num_shards:
        raise WorkKeptError(f"--num_shards is {config.num_shards}, but the input gives no more than {most} records.")
    if least > _MOST_RECORDS:
        raise UserError("the input gives over a billion records; prepare it in several parts.")


# ---- 2. pairs -------------------------------------------------------------------------------------------------------


def _pair_tasks(corpus: Corpus, config: PretrainingDataConfig) -> list[tuple[int, range]]:
    """(piece, which of its duplications) for each task: as many at once as an eighth of the memory holds."""
    dupe_factor = config.example.dupe_factor
    tasks = []
    for number, tokens in enumerate(corpus.tokens):
        at_once = max(1, (config.work.memory_mb << 17) // max(1, 2 * tokens * corpus.token_bytes))
        tasks += [(number, range(first, min(first + at_once, dupe_factor))) for first in range(0, dupe_factor, at_once)]
    return tasks


def _draw_piece(
    work: Path, index: int, number: int, dupes: range, corpus: Corpus, config: PretrainingDataConfig, cls_id: int,
    sep_id: int,
) -> Result:  # fmt: skip
    example = config.example
    rows = draw_rows(
        _generator(example, _PAIRS, dupes.start, number), TokenStore(work, corpus), number, times=len(dupes),
        objective=example.objective, packing=example.packing, swap=example.masking == "static",
        seq_length=example.max_seq_length, short_seq_prob=example.short_seq_prob, cls_id=cls_id, sep_id=sep_id,
    )  # fmt: skip
    table = np.concatenate(
        [rows.input_ids, rows.lengths, rows.labels[:, None]], 1, dtype=rows.input_ids.dtype, casting="unsafe"
    )
    order = _generator(example, _ORDER, index).permutation(len(table))
    length = table[:, -_EXTRA:-1].sum(1, dtype=np.int64) + special_tokens(example.objective)
    bins = (length - 1) // (config.bin_size or example.max_seq_length)
    order = order[np.argsort(bins[order], kind="stable")]
    with (work / _row_file(index)).open("wb") as file:
        for start in range(0, len(table), _ROWS_AT_ONCE):
            file.write(table[order[start : start + _ROWS_AT_ONCE]].tobytes())
        file.flush()
        os.fsync(file.fileno())
    return {"rows": np.bincount(bins, minlength=config.bins).tolist()}


def _row_file(task: int) -> str:
    return f"rows-{task:06d}"


# ---- 3. shards ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Which rows go where: shards are made of cells, and a cell is what one process shuffles in memory.

    A task's file holds its rows bin after bin, in random order within each; so do the cells.
    """

    shards: list[list[int]]  # the cells of each shard
    max_lengths: list[int | None]  # of each shard's records, where there are bins
    cell_rows: list[int]
    counts_file: str  # int64 [tasks, cells]: how many rows of each cell come from each task
    tasks: int
    row_bytes: int


def _lay_out(
    work: Path, task_rows: Sequence[Sequence[int]], config: PretrainingDataConfig, token_bytes: int
) -> _Layout:
    rows = np.array(task_rows, np.int64)  # [tasks, bins]
    total = int(rows.sum())
    _check_count(total, total, config)
    row_bytes = (config.example.max_seq_length + _EXTRA) * token_bytes
    cell_bytes = (config.work.memory_mb << 20) // _CELL_SHARE
    rng = _generator(config.example, _SPLIT)
    shards: list[list[int]] = []
    max_lengths: list[int | None] = []
    cell_rows: list[int] = []
    counts = []
    for number, shard_count in enumerate(_shards_of_bins(rows.sum(0).tolist(), config.num_shards)):
        in_bin = int(rows[:, number].sum())
        if not in_bin:
            continue
        cells_per_shard = max(1, -(-in_bin * row_bytes // (shard_count * cell_bytes)))
        left = np.array([n for shard in _shares(in_bin, shard_count) for n in _shares(shard, cells_per_shard)])
        shards += (len(cell_rows) + np.arange(len(left)).reshape(shard_count, cells_per_shard)).tolist()
        bound = (number + 1) * config.bin_size if config.bin_size else None
        max_lengths += [bound and min(bound, config.example.max_seq_length)] * shard_count
        cell_rows += left.tolist()
        drawn = np.zeros((len(rows), len(left)), np.int64)
        for task in range(len(rows)):
            drawn[task] = rng.multivariate_hypergeometric(left, int(rows[task, number]), method="marginals")
            left -= drawn[task]
        counts.append(drawn)
    np.save(work / "layout.npy", np.concatenate(counts, axis=1))
    return _Layout(shards, max_lengths, cell_rows, "layout.npy", len(rows), row_bytes)


def _shards_of_bins(totals: Sequence[int], num_shards: int) -> list[int]:
    """How many shards each bin of so many rows gets: at least one, and more where shards are largest."""
    shards = [min(1, total) for total in totals]
    for _ in range(num_shards - sum(shards)):
        shards[int(np.argmax([total / max(1, count) for total, count in zip(totals, shards, strict=True)]))] += 1
    return shards


def _shares(total: int, parts: int) -> list[int]:
    """Whole numbers that add up to the total and differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _write_shard(
    work: Path, index: int, output_dir: Path, layout: _Layout, cells: Sequence[int], longest: int | None,
    example: ExampleFlags, vocab: dict[str, int],
) -> Result:  # fmt: skip
    masking = Masking.of_vocab(
        vocab,
        max_predictions_per_seq=example.max_predictions_per_seq,
        masked_lm_prob=example.masked_lm_prob,
        whole_words=example.do_whole_word_mask,
    )
    dtype = token_dtype(max(vocab.values()) + 1)
    watch = _Watch(index, example, vocab)
    name, encode = _SHARDS[example.output_format]
    with ShardWriter(output_dir / name.format(index), _schema(example), encode) as writer:
        for cell in cells:
            table = _read_cell(work, layout, cell, dtype)
            order = _generator(example, _SHUFFLE, cell).permutation(len(table))
            rng = _generator(example, _MASK, cell)
            for start in range(0, len(table), _ROWS_AT_ONCE):
                features = _features(rng, table[order[start : start + _ROWS_AT_ONCE]], example, masking)
                writer.write_batch(features)
                watch.see(features)
    shard = writer.shard
    assert isinstance(shard.offsets, np.ndarray)
    write_atomically(_offsets_file(work, index), shard.offsets.tobytes())
    return watch.result(work, shard._replace(max_length=longest))


def _write_stream(
    work: Path, index: int, output_dir: Path, corpus: Corpus, first: int, count: int, example: ExampleFlags,
    vocab: dict[str, int],
) -> Result:  # fmt: skip
    """Tokens of the whole corpus from the `first` on."""
    path = output_dir / f"part-{index:05d}.npy"
    crc32 = write_stream(path, (work / file for file in corpus.files), corpus.tokens, first, count, corpus.token_bytes)
    stream, inside = np.load(path, mmap_mode="r"), example.max_seq_length - 2
    watch = _Watch(index, example, vocab)
    for start in range(0, count // inside, _ROWS_AT_ONCE):
        numbers = range(start, min(start + _ROWS_AT_ONCE, count // inside))
        watch.see(read_windows([(stream, number) for number in numbers], inside, vocab["[CLS]"], vocab["[SEP]"]))
    return watch.result(work, Shard(path.name, count // inside, crc32, path.stat().st_size))


def _samples(written: Sequence[Result]) -> list[str]:
    """A few records of the first shard, or of the first of each bin of lengths."""
    of_bin = {result["shard"]["max_length"]: result["samples"] for result in reversed(written)}
    return [sample for samples in reversed(of_bin.values()) for sample in samples[: max(1, _SAMPLES // len(of_bin))]]


class _Watch:
    """Counts a shard's records for the report, and keeps a few of them."""

    def __init__(self, index: int, example: ExampleFlags, vocab: dict[str, int]) -> None:
        self._statistics = RecordStatistics(example.max_seq_length, max(vocab.values()) + 1)
        self._tokens = {number: token for token, number in vocab.items()}
        self._example, self._mask_id = example, vocab["[MASK]"]
        self._samples: list[str] = []
        self._index = index

    def see(self, features: dict[str, np.ndarray]) -> None:
        self._statistics.add(features, self._mask_id)
        for row in range(min(_SAMPLES - len(self._samples), len(features["input_ids"]))):
            record = {name: features[name][row] for name in _schema(self._example)}
            self._samples.append(describe(record, self._tokens, self._example.objective))

    def result(self, work: Path, shard: Shard) -> Result:
        """Results are small: all are in memory together. So the counts, one a token, have a file."""
        write_atomically(_statistics_file(work, self._index), json.dumps(self._statistics.to_json()).encode())
        kept = {key: value for key, value in shard._asdict().items() if key != "offsets"}
        return {"shard": kept, "samples": self._samples}


def _statistics_file(work: Path, index: int) -> Path:
    return work / f"statistics-{index:06d}"


def _read_statistics(work: Path, index: int) -> RecordStatistics:
    return RecordStatistics.from_json(json.loads(_statistics_file(work, index).read_bytes()))


def _offsets_file(work: Path, index: int) -> Path:
    return work / f"offsets-{index:06d}"


def _offsets(work: Path, index: int) -> Path | None:
    file = _offsets_file(work, index)
    return file if file.exists() else None


def _read_cell(work: Path, layout: _Layout, cell: int, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """The cell's rows [R, S + 3], task after task."""
    counts = np.load(work / layout.counts_file, mmap_mode="r")
    wanted = counts[:, cell].tolist()
    skipped = counts[:, :cell].sum(1).tolist()  # the rows of earlier cells come first in a task's file
    columns = layout.row_bytes // np.dtype(dtype).itemsize
    parts = [
        np.fromfile(work / _row_file(task), dtype, rows * columns, offset=skip * layout.row_bytes)
        for task, (rows, skip) in enumerate(zip(wanted, skipped, strict=True))
        if rows
    ]
    return np.concatenate(parts).reshape(-1, columns)


def _features(
    rng: np.random.Generator, table: np.ndarray, example: ExampleFlags, masking: Masking
) -> dict[str, np.ndarray]:
    """The features of R records from their rows."""
    ids, (a, b, labels) = table[:, :-_EXTRA], table[:, -_EXTRA:].T[:, :, None]
    length = a + b + special_tokens(example.objective)
    place = np.arange(ids.shape[1], dtype=table.dtype)
    used = place < length
    features = {"input_ids": ids.astype(np.int32)}
    if example.masking == "static":
        candidates = used.copy()
        candidates[:, 0] = False
        for special in (a + 1, length - 1):
            np.put_along_axis(candidates, special.astype(np.int64), False, 1)
        features = mask_tokens(rng, ids, candidates, length[:, 0].astype(np.int64), masking)
    # As small numbers: a record's bytes are made of them several times as fast.
    features |= {"input_mask": used.view(np.uint8), "segment_ids": (used & (place > a + 1)).view(np.uint8)}
    return features if example.objective == "none" else features | {"next_sentence_labels": labels}


def _schema(example: ExampleFlags) -> Schema:
    if example.output_format == "tokens":
        return token_schema(example.max_seq_length)
    schema = pretraining_schema(example.max_seq_length, example.max_predictions_per_seq)
    left_out = set() if example.objective != "none" else {"next_sentence_labels"}
    if example.masking == "dynamic":
        left_out |= {name for name in schema if name.startswith("masked_lm_")}
    return {name: kind for name, kind in schema.items() if name not in left_out}
