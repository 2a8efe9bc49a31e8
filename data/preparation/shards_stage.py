"""The third stage of `prepare_data.py pretraining`: shuffles and masks all rows and writes shards.

The order of all rows is uniformly random. Each task's file is in random order. The number of its rows for each part of
the output is drawn from the distribution of a global shuffle, and each part is then shuffled.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.prepare import ExampleFlags, PretrainingDataConfig
from data.preparation.instances import special_tokens
from data.preparation.pairs_stage import EXTRA_COLUMNS, ROWS_AT_ONCE, row_file
from data.preparation.pieces import Result, run_pieces
from data.preparation.random_streams import MASK, SHUFFLE, SPLIT, generator
from data.preparation.report import describe
from data.preparation.statistics import RecordStatistics
from data.preparation.storage import set_directory
from data.preparation.token_store import Corpus, token_dtype
from data.preparation.work_directory import WorkKeptError
from data.reading.masking import Masking, mask_tokens
from data.records.dataset_json import Shard
from data.records.features import UNMASKED, Schema, pretraining_schema, schema_of
from data.records.json_lines import encode_json_lines
from data.records.ofrecord_encoding import encode_records
from data.records.shards import ShardWriter
from data.records.token_windows import read_windows, write_stream
from utils.atomic_files import write_atomically
from utils.errors import UserError

_CELL_SHARE = 16  # rows that are shuffled at once take one 16th of the memory
_MOST_RECORDS = 10**9 - 1  # numpy's hypergeometric distribution takes no larger population
_SAMPLES = 4  # records shown in the report
_FORMATS = {"ofrecord": ("part-{:05d}", encode_records), "jsonl": ("part-{:05d}.jsonl", encode_json_lines)}


@dataclass(frozen=True)
class Written:
    """The shards, and statistics and samples of their records for the report."""

    shards: list[Shard]
    statistics: RecordStatistics
    samples: list[str]


def write_records(
    config: PretrainingDataConfig, work: Path, task_rows: Sequence[Sequence[int]], corpus: Corpus,
    vocab: dict[str, int],
) -> Written:  # fmt: skip
    """Write the shards of records, from the rows of the second stage."""
    layout = _lay_out(work, task_rows, config, corpus.token_bytes)
    directory = set_directory(config)
    sizes = [sum(layout.cell_rows[cell] for cell in cells) for cells in layout.shards]
    arguments = (directory, layout, config.example, vocab, bool(config.segmentation_file))
    results = run_pieces(
        work, "shards", _write_shard, [arguments] * len(layout.shards),
        flags=config.work, sizes=sizes, unit="records", intact=_shard_is_in(directory),
    )  # fmt: skip
    return _written(work, results)


def write_streams(config: PretrainingDataConfig, work: Path, corpus: Corpus, vocab: dict[str, int]) -> Written:
    """Write the shards of token streams, from the tokens of the first stage."""
    sizes = _shares(sum(corpus.tokens), config.num_shards)
    if min(sizes) < config.example.max_seq_length - 2:
        records = sum(corpus.tokens) // (config.example.max_seq_length - 2)
        raise WorkKeptError(
            f"--num_shards is {config.num_shards}, but the input yields only {records} records: lower it."
        )
    directory = set_directory(config)
    parts = [range(sum(sizes[:index]), sum(sizes[: index + 1])) for index in range(len(sizes))]
    results = run_pieces(
        work, "shards", _write_stream, [(directory, corpus, part, config.example, vocab) for part in parts],
        flags=config.work, sizes=sizes, unit="tokens", intact=_shard_is_in(directory),
    )  # fmt: skip
    return _written(work, results)


def check_count(least: int, most: int, config: PretrainingDataConfig) -> None:
    """Raise UserError if the number of records, between `least` and `most`, is certainly too small or too large."""
    if most < config.num_shards:
        raise WorkKeptError(
            f"--num_shards is {config.num_shards}, but the input yields at most {most} records: lower it."
        )
    if least > _MOST_RECORDS:
        raise UserError("the input yields more than a billion records: prepare it in several parts.")


def record_schema(example: ExampleFlags) -> Schema:
    """The schema of the records that these flags produce."""
    if example.output_format == "tokens":
        return schema_of(UNMASKED, example.max_seq_length)
    return pretraining_schema(
        example.max_seq_length,
        example.max_predictions_per_seq,
        masked=example.masking == "static",
        second_task=example.objective != "none",
    )


def _shard_is_in(directory: Path) -> Callable[[Result], bool]:
    """Returns a check that a finished shard still exists with its full size."""

    def is_there(result: Result) -> bool:
        file = directory / result["shard"]["file"]
        return file.is_file() and file.stat().st_size == result["shard"]["bytes"]

    return is_there


def _written(work: Path, results: Sequence[Result]) -> Written:
    shards = [Shard(**result["shard"], offsets=_offsets(work, index)) for index, result in enumerate(results)]
    statistics = _read_statistics(work, 0)
    for index in range(1, len(results)):
        statistics.merge(_read_statistics(work, index))
    return Written(shards, statistics, _samples(results))


def _samples(results: Sequence[Result]) -> list[str]:
    """A few records of the first shard, or of the first shard of each length bin."""
    of_bin = {result["shard"]["max_length"]: result["samples"] for result in reversed(results)}
    return [sample for samples in reversed(of_bin.values()) for sample in samples[: max(1, _SAMPLES // len(of_bin))]]


# ---- which rows go where --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Which rows go where. Shards consist of cells; one process shuffles a cell in memory.

    Task files and cells are grouped by bin.
    """

    shards: list[list[int]]  # the cells of each shard
    max_lengths: list[int | None]  # the maximum length of each shard's records, with bins
    cell_rows: list[int]
    counts_file: str  # int64 [tasks, cells]: how many rows of each task go to each cell
    row_bytes: int


def _lay_out(
    work: Path, task_rows: Sequence[Sequence[int]], config: PretrainingDataConfig, token_bytes: int
) -> _Layout:
    rows = np.array(task_rows, np.int64)  # [tasks, bins]
    total = int(rows.sum())
    check_count(total, total, config)
    row_bytes = (config.example.max_seq_length + EXTRA_COLUMNS) * token_bytes
    cell_bytes = (config.work.memory_mb << 20) // _CELL_SHARE
    rng = generator(config.example.random_seed, SPLIT)
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
    return _Layout(shards, max_lengths, cell_rows, "layout.npy", row_bytes)


def _shards_of_bins(totals: Sequence[int], num_shards: int) -> list[int]:
    """The number of shards of each bin, given its number of rows: at least one, and more for the largest bins."""
    shards = [min(1, total) for total in totals]
    for _ in range(num_shards - sum(shards)):
        shards[int(np.argmax([total / max(1, count) for total, count in zip(totals, shards, strict=True)]))] += 1
    return shards


def _shares(total: int, parts: int) -> list[int]:
    """Integers that add up to the total and differ by at most one."""
    return [total // parts + (part < total % parts) for part in range(parts)]


# ---- one shard ------------------------------------------------------------------------------------------------------


def _write_shard(
    work: Path, index: int, output_dir: Path, layout: _Layout, example: ExampleFlags, vocab: dict[str, int],
    marked: bool,
) -> Result:  # fmt: skip
    masking = Masking.of_vocab(
        vocab,
        max_predictions_per_seq=example.max_predictions_per_seq,
        masked_lm_prob=example.masked_lm_prob,
        whole_words=example.do_whole_word_mask,
        marked=marked,
    )
    dtype = token_dtype(max(vocab.values()) + 1, marked=marked)
    observer = _Observer(index, example, vocab)
    name, encode = _FORMATS[example.output_format]
    with ShardWriter(output_dir / name.format(index), record_schema(example), encode) as writer:
        for cell in layout.shards[index]:
            table = _read_cell(work, layout, cell, dtype)
            order = generator(example.random_seed, SHUFFLE, cell).permutation(len(table))
            rng = generator(example.random_seed, MASK, cell)
            for start in range(0, len(table), ROWS_AT_ONCE):
                features = _features(rng, table[order[start : start + ROWS_AT_ONCE]], example, masking)
                writer.write_batch(features)
                observer.add(features)
    shard = writer.shard
    assert isinstance(shard.offsets, np.ndarray)
    write_atomically(_offsets_file(work, index), shard.offsets.tobytes())
    return observer.result(work, shard._replace(max_length=layout.max_lengths[index]))


def _write_stream(
    work: Path, index: int, output_dir: Path, corpus: Corpus, part: range, example: ExampleFlags,
    vocab: dict[str, int],
) -> Result:  # fmt: skip
    path, inside = output_dir / f"part-{index:05d}.npy", example.max_seq_length - 2
    files = (work / file for file in corpus.files)
    crc32 = write_stream(path, files, corpus.tokens, part.start, len(part), corpus.token_bytes)
    stream, records = np.load(path, mmap_mode="r"), len(part) // inside
    observer = _Observer(index, example, vocab)
    for start in range(0, records, ROWS_AT_ONCE):
        numbers = range(start, min(start + ROWS_AT_ONCE, records))
        observer.add(read_windows([(stream, number) for number in numbers], inside, vocab["[CLS]"], vocab["[SEP]"]))
    return observer.result(work, Shard(path.name, records, crc32, path.stat().st_size))


class _Observer:
    """Counts a shard's records for the report, and keeps a few as samples."""

    def __init__(self, index: int, example: ExampleFlags, vocab: dict[str, int]) -> None:
        self._statistics = RecordStatistics(example.max_seq_length, max(vocab.values()) + 1)
        self._tokens = {number: token for token, number in vocab.items()}
        self._example, self._mask_id = example, vocab["[MASK]"]
        self._samples: list[str] = []
        self._index = index

    def add(self, features: dict[str, np.ndarray]) -> None:
        """Count R records."""
        self._statistics.add(features, self._mask_id)
        for row in range(min(_SAMPLES - len(self._samples), len(features["input_ids"]))):
            record = {name: features[name][row] for name in record_schema(self._example)}
            self._samples.append(describe(record, self._tokens, self._example.objective))

    def result(self, work: Path, shard: Shard) -> Result:
        """The piece's result. The counts are large, so they go to a file: all results are in memory together."""
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
    """The cell's rows [R, S + EXTRA_COLUMNS], task after task."""
    counts = np.load(work / layout.counts_file, mmap_mode="r")
    wanted = counts[:, cell].tolist()
    skipped = counts[:, :cell].sum(1).tolist()  # a task's file begins with the rows of earlier cells
    columns = layout.row_bytes // np.dtype(dtype).itemsize
    parts = [
        np.fromfile(work / row_file(task), dtype, rows * columns, offset=skip * layout.row_bytes)
        for task, (rows, skip) in enumerate(zip(wanted, skipped, strict=True))
        if rows
    ]
    return np.concatenate(parts).reshape(-1, columns)


def _features(
    rng: np.random.Generator, table: np.ndarray, example: ExampleFlags, masking: Masking
) -> dict[str, np.ndarray]:
    """The features of R records, from their rows."""
    ids, (a, b, labels) = table[:, :-EXTRA_COLUMNS], table[:, -EXTRA_COLUMNS:].T[:, :, None]
    length = a + b + special_tokens(example.objective)
    position = np.arange(ids.shape[1], dtype=table.dtype)
    used = position < length
    features = {"input_ids": ids.astype(np.int32)}
    if example.masking == "static":
        candidates = used.copy()
        candidates[:, 0] = False
        for special in (a + 1, length - 1):
            np.put_along_axis(candidates, special.astype(np.int64), False, 1)
        features = mask_tokens(rng, ids, candidates, length[:, 0].astype(np.int64), masking)
    # uint8, because encoding is then several times faster.
    features |= {"input_mask": used.view(np.uint8), "segment_ids": (used & (position > a + 1)).view(np.uint8)}
    return features if example.objective == "none" else features | {"next_sentence_labels": labels}
