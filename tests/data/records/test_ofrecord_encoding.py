"""Records that are written: protobuf reads them."""

import struct

import numpy as np
import pytest

from benchmarks.protobuf_records import OFRecord
from data.records.ofrecord_encoding import encode_records
from tests.data.random_records import SCHEMA, examples


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
