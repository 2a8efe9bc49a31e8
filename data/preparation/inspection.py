"""`prepare_data.py inspect` and `verify`: show the content of a record set, and check that it is intact."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.prepare import InspectConfig, VerifyConfig
from conversion.tokenizer_files import read_vocabulary
from data.preparation.report import REPORT_HTML, REPORT_JSON, describe, write_report
from data.preparation.statistics import RecordStatistics
from data.reading.loader import Records
from data.records.features import FEATURES, bounds
from data.records.record_set import RecordSet
from data.sources import objective, open_source
from data.tokenization import load_vocab
from utils.errors import UserError
from utils.messages import warn
from utils.progress import Progress
from utils.worker_pool import in_processes

_RECORDS_AT_ONCE = 1024
_UNBOUNDED = 1 << 31


def inspect(config: InspectConfig) -> None:
    """Print the schema, counts, the flags of the preparation and a few records; write a report if there is none.

    Raises:
        UserError: the set cannot be opened, or a record is corrupt.
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
        print("\nno dataset.json (made by another program): the schema is that of the first record")
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
        print("\nto write a report about a single file, pass --report_dir")
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
        raise UserError(
            f"the report cannot be written to {directory}: {error.strerror}. Choose another place with --report_dir."
        ) from None
    for warning in found:
        warn(warning)
    print(f"\nthe report is {directory / REPORT_HTML}")


def _figures_of_text(directory: Path) -> dict[str, Any]:
    """The statistics that only the preparation could compute, from its report."""
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
    """The indices of a shard's records, in blocks."""
    first, end = np.append(records.shard_starts, len(records))[shard : shard + 2].tolist()
    for start in range(first, end, _RECORDS_AT_ONCE):
        yield np.arange(start, min(start + _RECORDS_AT_ONCE, end))


def _over_shards(
    title: str, records: RecordSet, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int | None
) -> Iterator[tuple[int, Any]]:
    """Calls `function` for each shard in several processes; yields shard and result as they finish."""
    sizes = np.diff(np.append(records.shard_starts, len(records))).tolist()
    with Progress(title, len(records), "records") as progress:
        for shard, result in in_processes(function, jobs, workers):
            progress.update(sizes[shard])
            yield shard, result


def _vocab(records: RecordSet, vocab_file: str) -> dict[str, int]:
    """The given vocabulary, or the set's; {} if there is none, so that ids are shown as numbers."""
    file = vocab_file or str(records.directory / "vocab.txt")
    if not vocab_file and not Path(file).exists():
        print("\nno vocabulary in the directory: pass --vocab_file to see tokens instead of ids")
        return {}
    return load_vocab(file)


def verify(config: VerifyConfig) -> None:
    """Read every record, and print what is wrong with each damaged shard.

    Raises:
        UserError: the set cannot be opened, a record is malformed or has a value out of range, or a shard's checksum
            differs from dataset.json.
    """
    records = open_source(config.input_dir)
    vocab_size = _vocab_size(records, config.vocab_file)
    damage: dict[int, str] = {}
    jobs = [(config.input_dir, shard, vocab_size) for shard in range(len(records.shards))]
    for shard, problem in _over_shards("verify", records, _verify_shard, jobs, config.num_workers):
        if problem:
            damage[shard] = problem
    if damage:
        first, *others = (damage[shard] for shard in sorted(damage))
        print("\n".join(others), end="\n" * bool(others))
        raise UserError(
            f"{len(damage)} of {len(jobs)} shards in {config.input_dir} are damaged: {first}. Copy or prepare the set "
            "again."
        )
    checked = "checksums match" if records.metadata else "there is no dataset.json with checksums"
    print(f"{len(records):,} records in {len(jobs)} shards are intact; {checked}")


def _vocab_size(records: RecordSet, vocab_file: str) -> int | None:
    if vocab_file:
        return read_vocabulary(vocab_file).size
    size: int | None = records.metadata.get("vocab_size")
    beside = records.directory / "vocab.txt"
    return read_vocabulary(beside).size if size is None and beside.exists() else size


def _verify_shard(directory: str, shard: int, vocab_size: int | None) -> str:
    """A description of a shard's damage; "" if it is intact."""
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
    """The records, with a check of all values when they are read."""
    length = records.schema["input_ids"][1] if "input_ids" in records.schema else _UNBOUNDED
    return Records(records, below=bounds(FEATURES, vocab_size=vocab_size or _UNBOUNDED, seq_length=length))
