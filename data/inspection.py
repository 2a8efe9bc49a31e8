"""`prepare_data.py inspect` and `verify`: what a directory of shards holds, and whether all of it is sound."""

import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from configs.prepare import InspectConfig, VerifyConfig
from data.ofrecord import RecordSet, open_records
from data.pieces import Progress
from data.tokenization import load_vocab
from utils.errors import UserError

_RECORDS_AT_ONCE = 1024
_LINE = 110


def inspect(config: InspectConfig) -> None:
    """Prints schema, counts, how the set was made, and a few decoded records."""
    records = open_records(config.input_dir)
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
    tokens = _tokens(records, config.vocab_file)
    count = min(config.num_samples, len(records))
    chosen = np.random.default_rng(config.sample_seed).choice(len(records), count, replace=False)
    for index, row in zip(chosen.tolist(), range(count), strict=True):
        record = {name: values[row] for name, values in records.read(chosen).items()}
        print(f"\n{records.location(index)}\n{describe(record, tokens)}")


def _tokens(records: RecordSet, vocab_file: str) -> Mapping[int, str]:
    """Ids to tokens; without a vocabulary ids stay numbers."""
    file = vocab_file or str(records.directory / "vocab.txt")
    if not vocab_file and not Path(file).exists():
        print("\nno vocabulary beside the shards: give --vocab_file to see tokens instead of ids")
        return {}
    return {index: token for token, index in load_vocab(file).items()}


def describe(record: Mapping[str, np.ndarray], tokens: Mapping[int, str]) -> str:
    """One record as text: its tokens, the answers to its masks, its labels."""

    def show(index: int) -> str:
        return tokens.get(index, str(index))

    length = int(record["input_mask"].sum()) if "input_mask" in record else len(record["input_ids"])
    words = [show(index) for index in record["input_ids"][:length].tolist()]
    lines = _wrapped(" ".join(words))
    if "masked_lm_positions" in record:
        used = record["masked_lm_weights"] > 0
        places, answers = (record[f"masked_lm_{name}"][used].tolist() for name in ("positions", "ids"))
        shown = [f"{place}:{show(answer)}" for place, answer in zip(places, answers, strict=True)]
        lines += _wrapped(f"masked: {' '.join(shown)}")
    if "segment_ids" in record:
        second = int(record["segment_ids"].sum())
        lines.append(f"  {length} tokens, {length - second} in the first segment and {second} in the second")
    if "next_sentence_labels" in record:
        lines.append(f"  B {'comes from elsewhere' if record['next_sentence_labels'][0] else 'follows A'}")
    for name in ("start_positions", "end_positions", "unique_ids", "label_ids"):
        if name in record:
            lines.append(f"  {name}: {record[name][0]}")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > _LINE:
            lines.append("")
        lines[-1] += " " * bool(lines[-1]) + word
    return [f"  {line}" for line in lines]


def verify(config: VerifyConfig) -> None:
    """Reads every record.

    Raises:
        UserError: a record does not parse or holds a value out of range, a shard's checksum differs from dataset.json,
            or the set cannot be opened; every damaged shard has been printed.
    """
    records = open_records(config.input_dir)
    vocab_size = _vocab_size(records, config.vocab_file)
    workers = min(config.num_workers or os.cpu_count() or 1, len(records.shards))
    damage: list[str] = []
    sizes = np.diff(np.append(records.shard_starts, len(records))).tolist()
    with Progress("verify", len(records), "records") as progress, ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_verify_shard, config.input_dir, shard, vocab_size) for shard in range(len(sizes))]
        for job, size in zip(jobs, sizes, strict=True):
            if problem := job.result():
                damage.append(problem)
                print(problem)
            progress.update(size)
    if damage:
        raise UserError(f"{len(damage)} of {len(sizes)} shards in {config.input_dir} are damaged: {damage[0]}.")
    checked = "checksums match" if records.metadata else "no dataset.json, so no checksums to compare"
    print(f"{len(records):,} records in {len(sizes)} shards are sound; {checked}")


def _vocab_size(records: RecordSet, vocab_file: str) -> int | None:
    if vocab_file:
        return max(load_vocab(vocab_file).values()) + 1
    size: int | None = records.metadata.get("vocab_size")
    return size


def _verify_shard(directory: str, shard: int, vocab_size: int | None) -> str:
    """What is wrong with a shard, "" if nothing is."""
    records = open_records(directory)
    starts = np.append(records.shard_starts, len(records))
    for start in range(int(starts[shard]), int(starts[shard + 1]), _RECORDS_AT_ONCE):
        indices = np.arange(start, min(start + _RECORDS_AT_ONCE, int(starts[shard + 1])))
        try:
            batch = records.read(indices)
        except UserError as error:
            return str(error)
        for name, bound in _bounds(records, vocab_size).items():
            if name not in batch:
                continue
            bad = ((batch[name] < 0) | (batch[name] >= bound)).any(1)
            if bad.any():
                row = int(np.argmax(bad))
                value = next(value for value in batch[name][row].tolist() if not 0 <= value < bound)
                return f"{records.location(int(indices[row]))}: {name} holds {value}, but must be below {bound}"
    if records.metadata:
        listed: dict[str, Any] = records.metadata["shards"][shard]
        crc = 0
        with records.shards[shard].open("rb") as file:
            while block := file.read(1 << 22):
                crc = zlib.crc32(block, crc)
        if crc != listed["crc32"]:
            return f"{records.shards[shard]}: its checksum differs from dataset.json's"
        if starts[shard + 1] - starts[shard] != listed["records"]:
            return f"{records.shards[shard]}: its number of records differs from dataset.json's"
    return ""


def _bounds(records: RecordSet, vocab_size: int | None) -> dict[str, int]:
    """The values a feature may have: 0 to below this."""
    length = records.schema["input_ids"][1] if "input_ids" in records.schema else 1 << 31
    bounds = dict.fromkeys(("input_mask", "segment_ids", "next_sentence_labels"), 2)
    bounds |= dict.fromkeys(("masked_lm_positions", "start_positions", "end_positions"), length)
    if vocab_size:
        bounds |= dict.fromkeys(("input_ids", "masked_lm_ids"), vocab_size)
    return bounds
