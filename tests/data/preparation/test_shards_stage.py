"""Shards: a uniformly random order, and bins of lengths."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

from data.ofrecord import open_records
from data.reading.dynamic_masking import unmasked
from tests.data.corpus import S, prepare_set

pytestmark = pytest.mark.usefixtures("many_pieces")


def test_the_whole_corpus_is_shuffled(tmp_path, corpus):
    """The records of each document are spread at random over the shards."""
    records = open_records(prepare_set(*corpus, tmp_path / "out", "--dupe_factor", 40, "--objective", "none"))
    starts = np.append(records.shard_starts, len(records))
    first = records.read(np.arange(len(records)))["input_mask"].sum(1)
    means = [first[i:j].mean() for i, j in pairwise(starts)]
    assert np.abs(np.array(means) - first.mean()).max() < 4.5 * first.std() / np.sqrt(len(records) / 4)
    order = np.arange(len(records))
    assert abs(np.corrcoef(order, first)[0, 1]) < 4.5 / np.sqrt(len(records))
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4.5 / np.sqrt(len(records))


def test_bins_hold_the_same_records_by_length(tmp_path, corpus):
    mixed = prepare_set(*corpus, tmp_path / "mixed", "--dupe_factor", 9, "--num_shards", 11)
    binned = prepare_set(*corpus, tmp_path / "binned", "--dupe_factor", 9, "--num_shards", 11, "--bin_size", 10)
    tokens, records = {}, {}
    for directory in (mixed, binned):
        records[directory] = open_records(directory)
        tokens[directory] = unmasked(records[directory].read(np.arange(len(records[directory]))))["input_ids"]
    assert sorted(tokens[mixed].tolist()) == sorted(tokens[binned].tolist())
    lengths = (tokens[binned] != 0).sum(axis=1)
    assert records[mixed].lengths is None
    bounds = records[binned].lengths
    assert (lengths <= bounds).all() and (lengths > bounds - 10).all()
    shards = records[binned].metadata["shards"]
    assert [shard["max_length"] for shard in shards] == sorted(shard["max_length"] for shard in shards)
    assert len(shards) == 11 and {10, 20, 30, S} >= {shard["max_length"] for shard in shards} > {30, S}
    for bound in (20, 30, S):  # the shards of a bin are equally large, and its records shuffled
        sizes = [shard["records"] for shard in shards if shard["max_length"] == bound]
        assert max(sizes) - min(sizes) <= 1
        inside = lengths[bounds == bound]
        assert abs(np.corrcoef(np.arange(len(inside)), inside)[0, 1]) < 4.5 / np.sqrt(len(inside))
    report = json.loads((binned / "report.json").read_text())
    assert report["padding_share"] == pytest.approx(1 - lengths.sum() / (len(lengths) * S))
    assert report["binned_padding_share"] == pytest.approx(1 - lengths.sum() / bounds.sum())
    page = (binned / "report.html").read_text()
    assert "padding with length bins" in page and "cut to bins of lengths" in page
    shown = [int(re.search("([0-9]+) tokens", sample)[1]) for sample in report["samples"]]
    assert [int(np.ceil(length / 10)) for length in shown] == sorted({-(-int(length) // 10) for length in lengths})
