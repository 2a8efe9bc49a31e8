"""`prepare_data.py squad`."""

import numpy as np
import pytest

from configs.squad import FeatureFlags, SquadDataConfig
from data.ofrecord import open_records
from data.preparation.squad import prepare
from data.squad.examples import read_squad_examples
from data.squad.features import FIRST_UNIQUE_ID, convert_examples_to_features
from tests.data.squad_files import CONTEXT, QUERY, STRIDE, S, question, squad
from utils.errors import UserError


def config(path, output, vocab_file, **flags):
    lengths = {"max_seq_length": S, "doc_stride": STRIDE, "max_query_length": QUERY}
    of_features = {k: flags.pop(k) for k in ("version_2_with_negative", "do_lower_case") if k in flags}
    return SquadDataConfig(path, str(output), features=FeatureFlags(vocab_file, **lengths, **of_features), **flags)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_hold_the_features_in_order(tmp_path, vocab_file, shards, capsys):
    path = squad(
        tmp_path, (CONTEXT, [question(CONTEXT, text, i) for i, text in enumerate(["1895", "Paris", "cat", "No!"])])
    )
    for training in (False, True):
        output = tmp_path / f"out-{training}"
        prepare(config(path, output, vocab_file, is_training=training, num_shards=shards))
        records = open_records(output)
        assert len(records.shards) == shards
        got = records.read(np.arange(len(records)))
        examples = read_squad_examples(path, is_training=training, version_2_with_negative=False)
        features = list(convert_examples_to_features(examples, config(path, output, vocab_file).features))
        expected = [f.record(S) | {"unique_ids": [FIRST_UNIQUE_ID + i]} for i, f in enumerate(features)]
        assert sorted(got) == sorted(records.schema)
        assert ("unique_ids" in got) is not training
        for name, values in got.items():
            assert values.tolist() == [list(e[name]) for e in expected]
        assert records.metadata["objective"] == "squad" and records.metadata["do_lower_case"] is True
        assert not (output / ".work").exists()


def test_a_complete_set_is_kept(tmp_path, vocab_file, capsys):
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, "Paris", 0)]))
    prepare(config(path, tmp_path / "out", vocab_file))
    before = (tmp_path / "out" / "dataset.json").stat().st_mtime_ns
    prepare(config(path, tmp_path / "out", vocab_file, num_workers=2))
    assert "already complete" in capsys.readouterr().out
    assert (tmp_path / "out" / "dataset.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"the results of other flags: --is_training \(was False\); use another"):
        prepare(config(path, tmp_path / "out", vocab_file, is_training=True))


def test_a_casing_that_does_not_fit_the_vocabulary_is_a_warning(tmp_path, vocab_file, capsys):
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, "Paris", 0)]))
    prepare(config(path, tmp_path / "out", vocab_file, do_lower_case=False))
    assert capsys.readouterr().err.count("--do_lower_case False contradicts") == 1
    assert open_records(tmp_path / "out").metadata["do_lower_case"] is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"max_seq_length": 67, "max_query_length": 64}, "--max_seq_length 67"),
        ({"doc_stride": 0}, "--doc_stride"),
        ({"max_query_length": 0}, "--max_query_length"),
    ],
)
def test_lengths_without_space_for_a_context(flags, words):
    with pytest.raises(UserError, match=words):
        FeatureFlags("vocab.txt", **flags)


def test_more_shards_than_questions(tmp_path, vocab_file):
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, "Paris", 0)]))
    with pytest.raises(UserError, match="--num_shards 2"):
        prepare(config(path, tmp_path / "out", vocab_file, num_shards=2))
