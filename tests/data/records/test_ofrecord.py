"""Our codec against protobuf's own classes, and what a damaged set is answered with."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.protobuf_records import OFRecord
from data.records.dataset_json import write_dataset_json
from data.records.features import pretraining_schema, squad_schema
from data.records.ofrecord import open_records, scan_offsets
from data.records.ofrecord_decoding import decode_records
from data.records.ofrecord_encoding import encode_records
from data.records.record_set import CorruptRecord
from data.records.shards import ShardWriter
from utils.errors import UserError

SCHEMA = {"input_ids": ("int32", 7), "a_long_name_of_weights": ("float", 5), "label": ("int32", 1)}


def examples(records, schema=SCHEMA, seed=3):
    rng = np.random.default_rng(seed)
    limits = [100, 300, 40_000, 2**31 - 1]
    return {
        name: rng.standard_normal((records, length)).astype(np.float32)
        if kind == "float"
        else rng.integers(-5 if seed % 2 else 0, limits[seed % 4], (records, length)).astype(np.int32)
        for name, (kind, length) in schema.items()
    }


def decode(data, offsets, schema=SCHEMA):
    return decode_records(np.frombuffer(data, np.uint8), offsets[:-1] + 8, offsets[1:], schema)


def serialize(values, schema=SCHEMA, int64=False):
    record = OFRecord()
    for name in values:
        kind = schema[name][0].replace("32", "64") if int64 and schema[name][0] == "int32" else schema[name][0]
        getattr(record.feature[name], f"{kind}_list").value.extend(values[name].tolist())
    return record.SerializeToString()


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


@pytest.mark.parametrize("seed", range(4))
def test_protobuf_reads_what_we_write(seed):
    batch = examples(5, seed=seed)
    data, offsets = encode_records(batch, SCHEMA)
    for row in range(5):
        start, end = int(offsets[row]), int(offsets[row + 1])
        assert struct.unpack_from("<q", data, start)[0] == end - start - 8
        feature = OFRecord.FromString(data[start + 8 : end]).feature
        assert set(feature) == set(SCHEMA)
        for name, (kind, _) in SCHEMA.items():
            np.testing.assert_array_equal(getattr(feature[name], f"{kind}_list").value, batch[name][row])


@pytest.mark.parametrize("int64", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_we_read_what_protobuf_writes_in_any_order_of_features(seed, int64):
    batch = examples(6, seed=seed)
    orders = [list(SCHEMA), list(SCHEMA)[::-1]]
    messages = [serialize({n: batch[n][row] for n in orders[row % 2]}, int64=int64) for row in range(6)]
    ends = np.cumsum([len(m) for m in messages])
    decoded = decode_records(np.frombuffer(b"".join(messages), np.uint8), np.append(0, ends[:-1]), ends, SCHEMA)
    for name in SCHEMA:
        np.testing.assert_array_equal(decoded[name], batch[name])
        assert decoded[name].dtype == batch[name].dtype


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.integers(0, 10_000), st.integers(0, 255))
@example(3, 241, 42)
def test_a_damaged_byte_never_gives_what_protobuf_would_not(seed, where, value):
    data, offsets = encode_records(examples(3, seed=seed), SCHEMA)
    damaged = bytearray(data)
    place = int(offsets[1]) + 8 + where % int(offsets[2] - offsets[1] - 8)
    damaged[place] = value
    try:
        decoded = decode(bytes(damaged), offsets)
    except CorruptRecord as error:
        assert error.index == 1
        return
    feature = OFRecord.FromString(bytes(damaged[int(offsets[1]) + 8 : int(offsets[2])])).feature
    for name, (kind, _) in SCHEMA.items():
        # One bit makes int32 lists int64 ones, which OneFlow reads as int32, too.
        held = (
            feature[name].int64_list if feature[name].HasField("int64_list") else getattr(feature[name], f"{kind}_list")
        )
        np.testing.assert_array_equal(decoded[name][1], np.array(held.value, decoded[name].dtype))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.pop("label"), "no feature label"),
        (lambda v: v.update(label=np.arange(2)), "label does not have 1 values"),
        (lambda v: v.update(input_ids=np.arange(200, 206)), "input_ids does not have 7 values"),
        (lambda v: v.update(a_long_name_of_weights=np.zeros(4)), "does not have 5 values"),
        (lambda v: v.update(label=np.zeros(0, int)), "disagree|empty or not packed"),  # as the order of the map has it
    ],
)
def test_a_record_unlike_the_schema_is_named(change, reason):
    values = {name: rows[0] for name, rows in examples(1).items()}
    change(values)
    message = serialize(values)
    with pytest.raises(CorruptRecord, match=reason):
        decode_records(np.frombuffer(message, np.uint8), np.array([0]), np.array([len(message)]), SCHEMA)


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


def test_a_set_made_elsewhere_is_scanned(tmp_path):
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
        ("no shards", "holds no part"),
        ("interrupted", "interrupted"),
    ],
)
def test_damage_is_one_sentence_that_names_the_file(tmp_path, indexed, how, words):
    write_set(tmp_path)
    if not indexed:
        (tmp_path / "dataset.json").unlink()
    damage(tmp_path, how)
    with pytest.raises(UserError, match=words):
        open_records(tmp_path).read(np.arange(11))


def test_a_corrupt_record_is_named_with_its_number_in_its_file(tmp_path):
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
    with pytest.raises(UserError, match="holds 2 part-… files, and 3"):
        open_records(tmp_path, parts=3)


def test_schemas_of_the_contract():
    assert pretraining_schema(37, 5)["masked_lm_weights"] == ("float", 5)
    assert squad_schema(37, True)["end_positions"] == squad_schema(37, False)["unique_ids"] == ("int32", 1)


def test_a_full_disk_leaves_no_unfinished_file(tmp_path):
    with pytest.raises(OSError, match="No space"), ShardWriter(tmp_path / "part-00000", SCHEMA) as writer:
        os.dup2(os.open("/dev/full", os.O_WRONLY), writer._file.fileno())  # nothing can be written, nor in closing
        writer.write_batch(examples(3, seed=0))
    assert not list(tmp_path.iterdir())
