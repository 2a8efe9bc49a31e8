"""Larger vocabularies and position tables leave what there was as it is."""

from pathlib import Path

import numpy as np
import pytest

from configs.pooling import Pooling
from conversion import read_checkpoint, write_checkpoint
from conversion.growing import extend_positions, grow_vocabulary
from inference import load
from utils.errors import UserError

MODEL = Path(__file__).parents[1] / "fixtures" / "huggingface" / "pretraining"
WORDS, POSITIONS = "bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight"
BIAS = "cls.predictions.bias"
TEXT = "the cat sat on a tree in the town."


@pytest.fixture
def extended(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text((MODEL / "vocab.txt").read_text() + "housed\nrans\n##ewy\nöö\n")
    return file


def test_a_new_word_is_the_mean_of_its_old_pieces(extended):
    old = read_checkpoint(MODEL)
    ids = {token: number for number, token in enumerate((MODEL / "vocab.txt").read_text().split())}
    new = grow_vocabulary(old, extended)
    count = len(ids)
    pieces = (["house", "##d"], ["ran", "##s"], ["##e", "##w", "##y"], ["[UNK]"])
    for name in (WORDS, BIAS):
        np.testing.assert_array_equal(new.state[name][:count], old.state[name])
        for number, tokens in enumerate(pieces, count):
            mean = old.state[name][[ids[token] for token in tokens]].mean(axis=0)
            np.testing.assert_allclose(new.state[name][number], mean, rtol=1e-6)
    assert new.config.vocab_size == count + 4


def test_text_without_new_words_has_the_same_hidden_states(extended, tmp_path):
    write_checkpoint(grow_vocabulary(read_checkpoint(MODEL), extended), tmp_path / "grown", vocab_file=extended)
    before, after = (load(path).feature_extraction([TEXT, "the house ran."]) for path in (MODEL, tmp_path / "grown"))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_vocabulary_grows_nothing(tmp_path):
    old, other = read_checkpoint(MODEL), tmp_path / "vocab.txt"
    tokens = (MODEL / "vocab.txt").read_text().split()
    other.write_text("\n".join([*tokens[:-1], "other", "new"]) + "\n")
    assert grow_vocabulary(old, other) is old
    assert grow_vocabulary(old, MODEL / "vocab.txt") is old


def test_positions_are_repeated_or_interpolated():
    old = read_checkpoint(MODEL)
    table = old.state[POSITIONS]
    repeated = extend_positions(old, 120, "repeat")
    assert repeated.config.max_position_embeddings == 120
    np.testing.assert_array_equal(repeated.state[POSITIONS], np.concatenate([table, table, table])[:120])
    stretched = extend_positions(old, 105, "interpolate").state[POSITIONS]
    for column in range(table.shape[1]):
        expected = np.interp(np.linspace(0, len(table) - 1, 105), np.arange(len(table)), table[:, column])
        np.testing.assert_allclose(stretched[:, column], expected, atol=1e-6)


def test_fewer_positions_are_refused():
    with pytest.raises(UserError, match="must be above the 53 positions"):
        extend_positions(read_checkpoint(MODEL), 53, "repeat")


def test_a_conversion_keeps_the_pooling(tmp_path):
    source, pooling = tmp_path / "source", Pooling("cls", normalize=True, max_seq_length=9)
    write_checkpoint(read_checkpoint(MODEL), source)
    (source / "1_Pooling").mkdir()
    for name, content in pooling.files(15).items():
        (source / name).write_bytes(content)
    for _ in range(2):
        write_checkpoint(read_checkpoint(source), tmp_path / "written", overwrite=True)
        assert Pooling.read(tmp_path / "written") == pooling
