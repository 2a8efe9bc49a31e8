"""A damaged dataset.json is refused in one sentence."""

import json

import pytest

from data.records.dataset_json import read_dataset_json
from utils.errors import UserError

SHARD = {"file": "part-00000", "records": 3, "crc32": 1, "bytes": 40}
SOUND = {"format_version": 1, "schema": {"input_ids": ["int32", 7]}, "records": 3, "shards": [SHARD], "seq_length": 7}


def test_a_sound_one_is_read(tmp_path):
    assert read_dataset_json(tmp_path) == {}
    (tmp_path / "dataset.json").write_text(json.dumps(SOUND))
    assert read_dataset_json(tmp_path) == SOUND


@pytest.mark.parametrize(
    "change",
    [
        {"schema": {"input_ids": ["int32", float("inf")]}},
        {"schema": {"input_ids": [[], 7]}},
        {"schema": {"input_ids": 7}},
        {"schema": []},
        {"schema": {"\ud800": ["int32", 7]}},
        {"schema": {"input_ids": ["int32", "7"]}},
        {"shards": [{"records": 3, "bytes": 40}]},
        {"shards": [{**SHARD, "file": ["part-00000"]}]},
        {"shards": [{**SHARD, "file": "\ud800"}]},
        {"shards": [{**SHARD, "records": 1e999}]},
        {"shards": [{**SHARD, "records": -3}]},
        {"shards": [{**SHARD, "max_length": "x"}]},
        {"shards": [SHARD, SHARD]},
        {"shards": 7},
        {"records": 10**400},
        {"records": None},
        {"seq_length": 0},
        {"vocab_size": "85"},
        {"cls_id": -1},
        {"objective": ["nsp"]},
        {"do_lower_case": "no"},
        {"made_by": "me"},
        {"format_version": [2] * 10000},
    ],
)
def test_values_of_other_types_and_bounds_are_refused(change, tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(SOUND | change))
    with pytest.raises(UserError, match=r"dataset\.json (is damaged|has format)") as raised:
        read_dataset_json(tmp_path)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("content", ["", "[", "[1]", "7", "[" * 100000, "\ufeff{}", "\x00"])
def test_other_content_is_refused(content, tmp_path):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        read_dataset_json(tmp_path)
