"""`prepare_data.py inspect` and `verify`: what a directory of shards holds, and whether all of it is sound."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.cli import warn
from configs.prepare import InspectConfig, VerifyConfig
from conversion.tokenizer_files import read_vocabulary
from data.preparation.pieces import Progress, in_processes
from data.preparation.report import REPORT_HTML, REPORT_JSON, RecordStatistics, describe, write_report
from data.reading.loader import Records
from data.records.record_set import RecordSet
from data.records.sources import objective, open_source
from data.text.tokenization import load_vocab
from utils.errors import UserError

_RECORDS_AT_ONCE = 1024


def inspect(config: InspectConfig) -> None:
    """Prints schema, counts, how the set was made, and a few decoded records; writes a report where there is none.

    Raises:
        UserError: the set cannot be opened, or a record of it is corrupt.
    """
    records = open_source(config.input_dir)
    print(f"{config.input_dir}: {len(records):,} records in {len(records.shards)} shards\n")
    for name, (kind, length) in records.schema.items():
        print(f"  {name:22} {kind}[{length}]")
    if records.metadata:
        print("\nmade by:")
        for key, value in records.metadata.get("made_by", {}).items():
            print(f"  --{key} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    else:
        print("\nno dataset.json: the set was made elsewhere, and its schema is that of its first record")
    if "input_ids" not in records.schema:
        return
    vocab = _vocab(records, config.vocab_file)
    tokens = {index: token for token, index in vocab.items()}
    count = min(config.num_samples, len(records))
    chosen = np.random.default_rng(config.sample_seed).choice(len(records), count, replace=False)
    batch = records.read(chosen) if count else {}
    rows = [{name: values[row] for name, values in batch.items()} for row in range(count)]
    samples = [describe(row, tokens, objective(records)) for row in rows]
    for index, sample in zip(chosen.tolist(), samples, strict=True):
        print(f"\n{records.location(index)}\n{sample}")
    if config.report and Path(config.input_dir).is_file() and not config.report_dir:
        print("\na report on a single file needs --report_dir")
    elif config.report:
        _report(config, records, vocab, samples)


def _report(config: InspectConfig, records: RecordSet, vocab: dict[str, int], samples: Sequence[str]) -> None:
    directory = Path(config.report_dir or config.input_dir)
    if (directory / REPORT_JSON).exists() and (directory / REPORT_HTML).exists():
        print(f"\nthe report is {directory / REPORT_HTML}")
        return
    size = max(vocab.values(), default=records.metadata.get("vocab_size", 1 << 18) - 1) + 1
    statistics = RecordStatistics(records.schema["input_ids"][1], size)
    jobs = [(config.input_dir, shard, size, vocab.get("[MASK]")) for shard in range(len(records.shards))]
    for _, part in _over_shards("inspect", records, _shard_statistics, jobs, config.num_workers):
        statistics.merge(part)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        figures = _figures_of_text(records.directory) | statistics.summary(
            vocab, records.metadata.get("made_by", {}), objective(records)
        )
        title = f"{records.directory.name}: {len(records):,} records"
        found = write_report(directory, figures, samples, title)
    except PermissionError as error:
        raise UserError(f"the report cannot be written to {directory}: {error.strerror}; give --report_dir.") from None
    for warning in found:
        warn(warning)
    print(f"\nthe report is {directory / REPORT_HTML}")


def _figures_of_text(directory: Path) -> dict[str, Any]:
    """What only the preparation knew, from its own report."""
    try:
        content = json.loads((directory / REPORT_JSON).read_bytes())
        return {name: content[name] for name in ("corpus", "do_lower_case", "packing") if name in content}
    except (OSError, ValueError, TypeError):
        return {}


def _shard_statistics(directory: str, shard: int, vocab_size: int, mask_id: int | None) -> RecordStatistics:
    records = open_source(directory)
    statistics = RecordStatistics(records.schema["input_ids"][1], vocab_size)
    checked = _checked(records, vocab_size)
    for indices in _chunks(records, shard):
        statistics.add(checked.read(indices), mask_id)
    return statistics


def _chunks(records: RecordSet, shard: int) -> Iterator[np.ndarray]:
    """The numbers of a shard's records, some at a time."""
    first, end = np.append(records.shard_starts, len(records))[shard : shard + 2].tolist()
    for start in range(first, end, _RECORDS_AT_ONCE):
        yield np.arange(start, min(start + _RECORDS_AT_ONCE, end))


def _over_shards(
    title: str, records: RecordSet, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int | None
) -> Iterator[tuple[int, Any]]:
    """Each shard's number and `function` of its job, as they are done, in several processes."""
    sizes = np.diff(np.append(records.shard_starts, len(records))).tolist()
    with Progress(title, len(records), "records") as progress:
        for shard, result in in_processes(function, jobs, workers):
            progress.update(sizes[shard])
            yield shard, result


def _vocab(records: RecordSet, vocab_file: str) -> dict[str, int]:
    """Without a vocabulary ids stay numbers."""
    file = vocab_file or str(records.directory / "vocab.txt")
    if not vocab_file and not Path(file).exists():
        print("\nno vocabulary beside the shards: give --vocab_file to see tokens instead of ids")
        return {}
    return load_vocab(file)


def verify(config: VerifyConfig) -> None:
    """Reads every record.

    Raises:
        UserError: a record does not parse or holds a value out of range, a shard's checksum differs from dataset.json,
            or the set cannot be opened; every damaged shard has been printed.
    """
    records = open_source(config.input_dir)
    vocab_size = _vocab_size(records, config.vocab_file)
    damage: dict[int, str] = {}
    jobs = [(config.input_dir, shard, vocab_size) for shard in range(len(records.shards))]
    for shard, problem in _over_shards("verify", records, _verify_shard, jobs, config.num_workers):
        if problem:
            damage[shard] = problem
            print(problem)
    if damage:
        raise UserError(
            f"{len(damage)} of {len(jobs)} shards in {config.input_dir} are damaged: {damage[min(damage)]}."
        )
    checked = "checksums match" if records.metadata else "no dataset.json, so no checksums to compare"
    print(f"{len(records):,} records in {len(jobs)} shards are sound; {checked}")


def _vocab_size(records: RecordSet, vocab_file: str) -> int | None:
    if vocab_file:
        return read_vocabulary(vocab_file).size
    size: int | None = records.metadata.get("vocab_size")
    beside = records.directory / "vocab.txt"
    return read_vocabulary(beside).size if size is None and beside.exists() else size


def _verify_shard(directory: str, shard: int, vocab_size: int | None) -> str:
    """What is wrong with a shard, "" if nothing is."""
    records = open_source(directory)
    checked = _checked(records, vocab_size)
    for indices in _chunks(records, shard):
        try:
            checked.read(indices)
        except UserError as error:
            return str(error).removesuffix(".")
    if records.metadata:
        listed: dict[str, Any] = records.metadata["shards"][shard]
        crc = 0
        with records.shards[shard].open("rb") as file:
            while block := file.read(1 << 22):
                crc = zlib.crc32(block, crc)
        if crc != listed["crc32"]:
            return f"{records.shards[shard]}: its checksum differs from dataset.json's"
    return ""


def _checked(records: RecordSet, vocab_size: int | None) -> Records:
    """The records, whose values are checked as they are read."""
    length = records.schema["input_ids"][1] if "input_ids" in records.schema else 1 << 31
    below = dict.fromkeys(("input_mask", "segment_ids", "next_sentence_labels", "masked_lm_weights"), 2)
    below |= dict.fromkeys(("masked_lm_positions", "start_positions", "end_positions"), length)
    return Records(records, below=below | dict.fromkeys(("input_ids", "masked_lm_ids"), vocab_size or 1 << 31))
