"""What a path may name, and sets that are mixed."""

import json

import numpy as np
import pytest

from data.ofrecord import open_records
from data.records.dataset_json import write_dataset_json
from data.records.features import pretraining_schema
from data.records.shards import ShardWriter
from data.sources import open_source, open_sources
from utils.errors import UserError

S, P = 11, 3


def arrays(count, seed, length=S):
    rng = np.random.default_rng(seed)
    schema = pretraining_schema(length, P)
    return {n: rng.integers(0, 2, (count, size)).astype(np.int32) for n, (_, size) in schema.items()}


def write(directory, counts, *, length=S, **metadata):
    directory.mkdir()
    shards = []
    for number, count in enumerate(counts):
        with ShardWriter(directory / f"part-{number}", pretraining_schema(length, P)) as writer:
            writer.write_batch(arrays(count, hash((directory.name, number)) % 1000, length))
        shards.append(writer.shard)
    if metadata:
        write_dataset_json(directory, schema=pretraining_schema(length, P), shards=shards, **metadata)
    return directory


def everything(source):
    return source.read(np.arange(len(source)))


def test_sets_are_mixed_in_their_order(tmp_path):
    paths = [write(tmp_path / "a", (5, 2)), write(tmp_path / "b", (7,)), write(tmp_path / "c", (3,), vocab_size=37)]
    mixed = open_sources([*map(str, paths[:2]), str(paths[2] / "part-0")])
    assert len(mixed) == 17 and mixed.shard_starts.tolist() == [0, 5, 7, 14] and mixed.metadata["vocab_size"] == 37
    parts = [everything(open_records(path)) for path in paths]
    for name, values in everything(mixed).items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
    picked = mixed.read(np.array([16, 0, 7, 8, 5]))
    np.testing.assert_array_equal(picked["input_ids"], everything(mixed)["input_ids"][[16, 0, 7, 8, 5]])
    assert mixed.location(8).endswith("b/part-0: record 1") and mixed.location(16).endswith("c/part-0: record 2")


def test_bins_of_lengths_are_mixed(tmp_path):
    directory = tmp_path / "binned"
    directory.mkdir()
    shards = []
    for number, (count, longest) in enumerate([(40, 4), (60, 8), (100, S)]):
        with ShardWriter(directory / f"part-{number}", pretraining_schema(S, P)) as writer:
            ids = np.repeat(np.arange(count)[:, None] + 1000 * longest, S, axis=1)
            writer.write_batch(arrays(count, number) | {"input_ids": ids.astype(np.int32)})
        shards.append(writer.shard._replace(max_length=longest))
    write_dataset_json(directory, schema=pretraining_schema(S, P), shards=shards)
    source = open_sources([str(directory)])
    ids = everything(source)["input_ids"][:, 0]
    assert source.lengths.tolist() == (ids // 1000).tolist()
    assert sorted(ids.tolist()) == sorted(everything(open_records(directory))["input_ids"][:, 0].tolist())
    shares = np.array([(source.lengths[half] == S).mean() for half in (slice(100), slice(100, 200))])
    assert np.abs(shares - 0.5).max() < 0.2
    for index in (0, 77, 199):
        shard = {4: 0, 8: 1, S: 2}[ids[index] // 1000]
        assert source.location(index).endswith(f"part-{shard}: record {ids[index] % 1000}")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({}, {"length": 13}, "a and .*b cannot be combined: their records have input_ids of lengths 11 and 13"),
        ({"objective": "sop"}, {}, "objectives sop and nsp"),
        ({"vocab_sha256": "x"}, {"vocab_sha256": "y"}, "vocabularies x and y"),
        ({"do_lower_case": True}, {"do_lower_case": False}, "do_lower_case True and False"),
    ],
)
def test_sets_that_cannot_be_combined_are_both_reported(tmp_path, first, second, words):
    paths = [str(write(tmp_path / "a", (2,), **first)), str(write(tmp_path / "b", (2,), **second))]
    with pytest.raises(UserError, match=words):
        open_sources(paths)


def test_parts_of_several_directories_are_refused(tmp_path):
    paths = [str(write(tmp_path / name, (2, 2))) for name in "ab"]
    assert len(open_sources(paths[:1], parts=1)) == 2
    with pytest.raises(UserError, match="--train_data_part"):
        open_sources(paths, parts=1)


def test_a_single_shard_keeps_the_metadata_of_its_set(tmp_path):
    directory = write(tmp_path / "set", (5, 2), objective="sop")
    shard = open_source(directory / "part-1")
    assert len(shard) == 2 and shard.metadata["objective"] == "sop"
    (directory / "copy").write_bytes((directory / "part-1").read_bytes())
    np.testing.assert_array_equal(
        everything(open_source(directory / "copy"))["input_ids"], everything(shard)["input_ids"]
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "not a directory of records"),
        (lambda path: path.mkdir(), "no part-"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"no record at all"), "record 0 is corrupt"),
    ],
)
def test_paths_that_are_not_sets(tmp_path, make, words):
    make(tmp_path / "data")
    with pytest.raises(UserError, match=words):
        open_source(tmp_path / "data")


def test_an_unknown_format_is_reported(tmp_path):
    directory = write(tmp_path / "set", (2,), objective="nsp")
    content = json.loads((directory / "dataset.json").read_text())
    (directory / "dataset.json").write_text(json.dumps(content | {"format": "other"}))
    with pytest.raises(UserError, match="format 'other'"):
        open_source(directory)
