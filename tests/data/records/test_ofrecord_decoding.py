"""Records that are read: as protobuf reads them, or not at all."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.protobuf_records import OFRecord
from data.records.ofrecord_decoding import decode_records
from data.records.ofrecord_encoding import encode_records
from data.records.record_set import CorruptRecord
from tests.data.random_records import SCHEMA, examples


def decode(data, offsets, schema=SCHEMA):
    return decode_records(np.frombuffer(data, np.uint8), offsets[:-1] + 8, offsets[1:], schema)


def serialize(values, schema=SCHEMA, int64=False):
    record = OFRecord()
    for name in values:
        kind = schema[name][0].replace("32", "64") if int64 and schema[name][0] == "int32" else schema[name][0]
        getattr(record.feature[name], f"{kind}_list").value.extend(values[name].tolist())
    return record.SerializeToString()


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
def test_a_damaged_byte_never_gives_other_values_than_protobuf(seed, where, value):
    data, offsets = encode_records(examples(3, seed=seed), SCHEMA)
    damaged = bytearray(data)
    position = int(offsets[1]) + 8 + where % int(offsets[2] - offsets[1] - 8)
    damaged[position] = value
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
def test_a_record_that_does_not_match_the_schema(change, reason):
    values = {name: rows[0] for name, rows in examples(1).items()}
    change(values)
    message = serialize(values)
    with pytest.raises(CorruptRecord, match=reason):
        decode_records(np.frombuffer(message, np.uint8), np.array([0]), np.array([len(message)]), SCHEMA)
