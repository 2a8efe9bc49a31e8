"""Fixtures of the tests of data/."""

import pytest

from data.preparation import inputs, shards_stage
from tests.data.corpus import write_corpus
from tests.data.squad_files import write_vocab


@pytest.fixture
def corpus(tmp_path):
    """(text file, vocabulary file)"""
    return write_corpus(tmp_path / "in")


@pytest.fixture
def many_pieces(monkeypatch):
    """Cuts the small corpus into several pieces, and a shard into several cells."""
    monkeypatch.setattr(inputs, "SMALLEST_PIECE", 700)
    monkeypatch.setattr(shards_stage, "_CELL_SHARE", 1 << 16)


@pytest.fixture
def vocab_file(tmp_path):
    """A vocabulary for SQuAD files."""
    return write_vocab(tmp_path)
