"""Similarity and search: exact, and pooled as the model's directory says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.cli import parse
from configs.infer import InferConfig
from configs.pooling import Pooling
from inference import ArgumentError, load
from inference.command import infer
from utils.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODEL = FIXTURES / "huggingface" / "classification"
COLUMNS = json.loads((FIXTURES / "sentence_transformers" / "texts.json").read_text())["columns"]
TEXTS = [text for column in COLUMNS for text in column]


@pytest.fixture
def directory(tmp_path):
    """A function that makes a model directory of sentence-transformers."""

    def make(**pooling):
        target = tmp_path / "model"
        shutil.copytree(MODEL, target)
        (target / "1_Pooling").mkdir()
        for name, content in Pooling(**pooling).files(15).items():
            (target / name).write_bytes(content)
        return target

    return make


def run(*words):
    infer(parse(InferConfig, list(map(str, words))))


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_vectors_are_those_of_sentence_transformers(directory, pooling):
    with np.load(FIXTURES / "sentence_transformers" / "reference.npz") as file:
        expected = file[f"vectors:{pooling}"]
    model = load(directory(kind=pooling, max_seq_length=23))
    found = model.feature_extraction(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one, other = expected[0], expected[5]
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert model.similarity(TEXTS[0], TEXTS[5])["score"] == pytest.approx(cosine, abs=1e-5)
    cut = np.array(model.feature_extraction(TEXTS[0], dimensions=7))
    np.testing.assert_allclose(cut, one[:7], atol=1e-5)


def test_long_texts_are_cut_and_vectors_normalized(directory):
    model = load(directory(kind="mean", normalize=True, max_seq_length=7))
    found = model.feature_extraction(["the cat sat on it", "the cat sat on it and ran to the river and the town " * 9])
    np.testing.assert_array_equal(found[0], found[1])
    assert np.linalg.norm(found[0]) == pytest.approx(1)


@pytest.mark.parametrize("as_json", [False, True])
def test_search_finds_the_closest_texts(directory, tmp_path, as_json):
    model = load(directory(kind="mean"))
    lines = [json.dumps({"_id": f"d{n}", "text": text}) if as_json else text for n, text in enumerate(TEXTS)]
    (tmp_path / "corpus").write_text("\n".join(lines) + "\n\n")
    corpus = model.corpus(tmp_path / "corpus")
    vectors = np.array(model.feature_extraction(TEXTS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = TEXTS[3:7]
    for number, answer in enumerate(model.search(queries, corpus, top_k=4), 3):
        order = np.argsort(-(vectors @ vectors[number]), kind="stable")[:4]
        assert [each["number"] for each in answer] == order.tolist()
        assert [each["text"] for each in answer] == [TEXTS[index] for index in order]
        np.testing.assert_allclose([each["score"] for each in answer], (vectors @ vectors[number])[order], atol=1e-5)
        assert [each.get("id") for each in answer] == [f"d{index}" if as_json else None for index in order]


def test_vectors_in_a_file_are_searched(directory, tmp_path, capsys):
    model = directory(kind="mean")
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
    words = ("--task", "feature-extraction", "--input_path", tmp_path / "texts", "--output_path", tmp_path / "v.npy")
    run("--model_path", model, *words)
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (15, 15) and vectors.dtype == np.float32
    run(
        "--model_path", model, "--task", "search", "--corpus_path", tmp_path / "v.npy", "--text", TEXTS[4], "--top_k", 2
    )
    assert "1.0000  4" in capsys.readouterr().out
    words = ("--model_path", model, "--task", "search", "--corpus_path", tmp_path / "v.npy", "--text", "the")
    with pytest.raises(UserError, match=r"--corpus_path .* vectors of 15 numbers, but the model produces 7"):
        run(*words, "the", "--dimensions", 7)


def test_the_default_of_a_model_without_pooling_stays(tmp_path):
    model = load(FIXTURES / "huggingface" / "pretraining")
    assert isinstance(model.feature_extraction("the cat")[0], list)
    expected = np.mean(model.feature_extraction("the cat"), axis=0)
    np.testing.assert_allclose(model.feature_extraction("the cat", pooling="mean"), expected, atol=1e-5)
    assert model.similarity("the cat", "the cat")["score"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "contains no texts"),
        (b"a\n\xff\n", "line 2 is not valid UTF-8"),
        (b'{"title": "a"}\n', "line 1 has no field 'text'"),
    ],
)
def test_an_unusable_corpus_is_refused(tmp_path, content, message):
    (tmp_path / "corpus").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(MODEL).corpus(tmp_path / "corpus")


def test_flags_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="--task search and --corpus_path must be used together"):
        parse(InferConfig, ["--model_path", "m", "--task", "search"])
    with pytest.raises(UserError, match="--task similarity needs one vector per text"):
        parse(InferConfig, ["--model_path", "m", "--task", "similarity", "--pooling", "tokens"])
    with pytest.raises(ArgumentError, match="dimensions 16 is above the model's 15"):
        load(MODEL).similarity("a", "b", dimensions=16)
    (tmp_path / "a.npy").write_bytes(b"no")
    with pytest.raises(ArgumentError, match=r"cannot be read as an .npy file"):
        load(MODEL).corpus(tmp_path / "a.npy")
