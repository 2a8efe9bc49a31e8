"""Sets of OFRecord shards, and what is wrong with a damaged one."""

import json
import os

import numpy as np
import pytest

from data.ofrecord import open_records, scan_offsets
from data.records.dataset_json import write_dataset_json
from data.records.shards import ShardWriter
from tests.data.random_records import SCHEMA, examples
from utils.errors import UserError


def write_set(directory, records=11, shards=2, **metadata):
    directory.mkdir(exist_ok=True)
    batch, written = examples(records), []
    for number, rows in enumerate(np.array_split(np.arange(records), shards)):
        with ShardWriter(directory / f"part-{number:05d}", SCHEMA) as writer:
            for row in rows:
                writer.write({name: values[row] for name, values in batch.items()})
        written.append(writer.shard)
    write_dataset_json(directory, schema=SCHEMA, shards=written, **metadata)
    return batch


def test_records_are_read_by_number(tmp_path):
    batch = write_set(tmp_path, records=11, shards=3, objective="nsp")
    records = open_records(tmp_path)
    assert (len(records), records.schema, records.metadata["objective"]) == (11, SCHEMA, "nsp")
    order = np.array([10, 0, 3, 3, 7])
    for name, values in records.read(order).items():
        np.testing.assert_array_equal(values, batch[name][order])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dataset.json", "offsets.u64", "part-00000", "part-00001", "part-00002"
    ]  # fmt: skip
    assert len(open_records(tmp_path, parts=2)) == 8


def test_a_set_of_another_program_is_scanned(tmp_path):
    batch = write_set(tmp_path, records=13, shards=11)
    for name in ("dataset.json", "offsets.u64"):
        (tmp_path / name).unlink()
    for number in range(11):
        (tmp_path / f"part-{number:05d}").rename(tmp_path / f"part-{number}")
    records = open_records(tmp_path)
    assert (len(records), records.schema, records.metadata) == (13, SCHEMA, {})
    np.testing.assert_array_equal(records.read(np.arange(13))["input_ids"], batch["input_ids"])


def test_crc_and_index_describe_the_file(tmp_path):
    import zlib

    write_set(tmp_path, records=300, shards=1)
    shard = json.loads((tmp_path / "dataset.json").read_text())["shards"][0]
    content = (tmp_path / "part-00000").read_bytes()
    assert (shard["records"], shard["bytes"], shard["crc32"]) == (300, len(content), zlib.crc32(content))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "offsets.u64", "<u8"), scan_offsets(tmp_path / "part-00000"))


def test_an_interrupted_shard_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "part-00000", SCHEMA) as writer:
        writer.write_batch(examples(2))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def damage(directory, how):
    file = directory / "part-00001"
    content = bytearray(file.read_bytes())
    if how == "truncated":
        file.write_bytes(content[:-3])
    elif how == "missing":
        (directory / "part-00000").unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "absurd length":
        file.write_bytes(b"\xff" * 8 + content[8:])
    elif how == "no shards":
        for part in directory.glob("part-*"):
            part.unlink()
    elif how == "interrupted":
        (directory / ".work").mkdir()


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "part-00001"),
        ("missing", "part 0"),
        ("empty", "part-00001"),
        ("absurd length", "part-00001: record 0"),
        ("no shards", "contains no part"),
        ("interrupted", "interrupted"),
    ],
)
def test_damage_is_reported_with_the_file(tmp_path, indexed, how, words):
    write_set(tmp_path)
    if not indexed:
        (tmp_path / "dataset.json").unlink()
    damage(tmp_path, how)
    with pytest.raises(UserError, match=words):
        open_records(tmp_path).read(np.arange(11))


def test_a_corrupt_record_is_reported_with_its_number(tmp_path):
    write_set(tmp_path)
    file = tmp_path / "part-00001"
    content = bytearray(file.read_bytes())
    content[int(scan_offsets(file)[2]) + 8] ^= 0x55
    file.write_bytes(content)
    with pytest.raises(UserError, match="part-00001: record 2 is corrupt"):
        open_records(tmp_path).read(np.array([0, 8, 5]))


def test_too_few_parts_and_no_directory(tmp_path):
    with pytest.raises(UserError, match="not a directory"):
        open_records(tmp_path / "none")
    write_set(tmp_path)
    with pytest.raises(UserError, match="contains 2 part-… files, but 3"):
        open_records(tmp_path, parts=3)


def test_a_full_disk_leaves_no_unfinished_file(tmp_path):
    with pytest.raises(OSError, match="No space"), ShardWriter(tmp_path / "part-00000", SCHEMA) as writer:
        os.dup2(os.open("/dev/full", os.O_WRONLY), writer._file.fileno())  # writing fails, and so does closing
        writer.write_batch(examples(3, seed=0))
    assert not list(tmp_path.iterdir())
