"""Streams of token ids: what the files hold, and windows of any length over them."""

import json

import numpy as np
import pytest

from data.preparation import shards_stage
from data.records.token_windows import write_stream
from data.sources import open_source, open_sources
from data.tokenization import load_tokenizer
from tests.data.corpus import VOCAB, S, content, documents, prepare_set, write_corpus
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("many_pieces")

TOKENS = ("--output_format", "tokens", "--packing", "chunks", "--objective", "none", "--masking", "dynamic")


@pytest.fixture
def stream(tmp_path):
    """(directory, all token ids of the corpus)"""
    text, vocab = write_corpus(tmp_path / "in")
    tokenizer = load_tokenizer(vocab)
    ids = [i for document in documents() for sentence in document for i in tokenizer.encode(sentence).ids]
    return prepare_set(text, vocab, tmp_path / "out", *TOKENS), np.array(ids)


def test_the_files_are_the_corpus(stream):
    directory, ids = stream
    parts = [np.load(file, mmap_mode="r") for file in sorted(directory.glob("part-*.npy"))]
    assert len(parts) == 4 and parts[0].dtype == np.uint16
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    np.testing.assert_array_equal(np.concatenate(parts), ids)


@pytest.mark.parametrize("seq_length", [S, 11])
def test_windows(stream, seq_length):
    directory, _ = stream
    source = open_sources([str(directory)], seq_length=seq_length)
    assert source.schema["input_ids"] == ("int32", seq_length)
    parts = [np.load(file) for file in sorted(directory.glob("part-*.npy"))]
    expected = [
        [VOCAB["[CLS]"], *part[start : start + seq_length - 2], VOCAB["[SEP]"]]
        for part in parts
        for start in range(0, len(part) - seq_length + 3, seq_length - 2)
    ]
    order = np.random.default_rng(3).permutation(len(expected))
    assert len(source) == len(expected)
    batch = source.read(order)
    np.testing.assert_array_equal(batch["input_ids"], np.array(expected)[order])
    assert batch["input_mask"].all() and not batch["segment_ids"].any()
    assert len(open_source(directory / "part-00001.npy").read(np.array([0]))["input_ids"]) == 1


def test_processes_and_interruptions_change_nothing(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "in")
    one = content(prepare_set(*corpus, tmp_path / "one", *TOKENS))
    assert content(prepare_set(*corpus, tmp_path / "two", *TOKENS, "--num_workers", 2)) == one
    written = []

    def failing(path, *arguments):
        written.append(path.name)
        if len(written) == 3:
            raise KeyboardInterrupt
        return write_stream(path, *arguments)

    monkeypatch.setattr(shards_stage, "write_stream", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare_set(*corpus, tmp_path / "three", *TOKENS)
    assert content(prepare_set(*corpus, tmp_path / "three", *TOKENS)) == one
    assert written == [f"part-0000{number}.npy" for number in (0, 1, 2, 2, 3)]
    assert "part-00003.npy" in one and "offsets.u64" not in one


def test_sizes_that_do_not_fit_are_reported(tmp_path, stream):
    directory, _ = stream
    corpus = tmp_path / "in/text.txt", tmp_path / "in/vocab.txt"
    with pytest.raises(UserError, match="--objective none --packing chunks --masking dynamic"):
        prepare_set(*corpus, tmp_path / "x", "--output_format", "tokens")
    with pytest.raises(UserError, match=r"--num_shards is 400, but the input yields only \d+ records"):
        prepare_set(*corpus, tmp_path / "x", *TOKENS, "--num_shards", 400)
    with pytest.raises(UserError, match="--seq_length 60000 is too large"):
        open_sources([str(directory)], seq_length=60000)
    with pytest.raises(UserError, match="--seq_length 2 is too small"):
        open_sources([str(directory)], seq_length=2)
    part = directory / "part-00002.npy"
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"part-00002\.npy is not the file"):
        open_source(directory)
    content = json.loads((directory / "dataset.json").read_text())
    del content["cls_id"]
    (directory / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no dataset\.json with its special tokens"):
        open_source(directory / "part-00000.npy")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (9" + b"9" * 40 + b",), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (8,), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (2, 8), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (8,), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (8L,), ",
        b"((((((((((((",
        b"'" * 50,
        b"\\",
    ],
)
def test_a_damaged_header_is_one_sentence(stream, header):
    directory, _ = stream
    part = directory / "part-00001.npy"
    size = part.stat().st_size
    text = header.ljust(118)[:246] + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    part.write_bytes(content.ljust(size, b"\0")[:size])
    with pytest.raises(UserError, match=r"part-00001\.npy is damaged"):
        open_source(directory)
