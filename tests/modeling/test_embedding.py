"""Vectors, losses and gradients equal sentence-transformers' on the same weights.

The reference values come from `tests/fixtures/make_sentence_transformers_reference.py`.
"""

import json
from pathlib import Path

import numpy as np
import oneflow as flow
import pytest

from configs.pooling import Pooling
from conversion.tokenizer_files import read_vocabulary
from data.embedding import GroupRecords, TextGroups
from data.tables import Table
from modeling.embedding import BertForEmbedding, pool
from modeling.embedding_losses import CoSent, CosineSimilarity, Matryoshka, MultipleNegatives

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODEL = FIXTURES / "huggingface" / "classification"
TEXTS = json.loads((FIXTURES / "sentence_transformers" / "texts.json").read_text())
LOSSES = {
    "multiple_negatives": MultipleNegatives(),
    "symmetric": MultipleNegatives(symmetric=True),
    "cosent": CoSent(),
    "cosine": CosineSimilarity(),
    "matryoshka": Matryoshka(MultipleNegatives(), (15, 7, 2)),
}
SCORED = ("cosent", "cosine")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference():
    with np.load(FIXTURES / "sentence_transformers" / "reference.npz") as file:
        return dict(file)


def build(pooling="mean", loss=None, normalize=False):
    model = BertForEmbedding.from_pretrained(MODEL)
    model.pooling, model.loss = Pooling(pooling, normalize), loss
    return model


def batch_of(columns, scores=None, repeated=0):
    """The texts as a batch; `repeated` rows fill it up, with weight 0."""
    rows = len(columns[0])
    groups = TextGroups(Table(Path("texts"), {}, tuple(range(rows))), ("a",) * len(columns), tuple(columns), scores)
    records = GroupRecords(groups, read_vocabulary(MODEL), max_seq_length=23)
    batch = records.read(np.r_[np.arange(rows), np.zeros(repeated, int)])
    batch["example_weights"] = np.r_[np.ones(rows), np.zeros(repeated)].astype(np.float32)
    return {name: flow.tensor(array) for name, array in batch.items()}


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_vectors(reference, pooling):
    batch = batch_of([[text for column in TEXTS["columns"] for text in column]])
    found = build(pooling).eval()(**batch)["embeddings"].numpy()
    np.testing.assert_allclose(found, reference[f"vectors:{pooling}"], atol=TOLERANCE)
    unit = build(pooling, normalize=True).eval()(**batch)["embeddings"].numpy()
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=TOLERANCE)


@pytest.mark.parametrize("repeated", [0, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients(reference, name, repeated):
    model = build(loss=LOSSES[name]).train()
    columns = TEXTS["columns"][: 2 if name in SCORED else 3]
    scores = np.array(TEXTS["scores"], np.float32) if name in SCORED else None
    loss = model(**batch_of(columns, scores, repeated))["total_loss"]
    loss.backward()
    np.testing.assert_allclose(loss.numpy(), reference[f"loss:{name}"], rtol=TOLERANCE)
    parameters = dict(model.named_parameters())
    for key in (key for key in reference if key.startswith(f"grad:{name}:")):
        found = parameters[key.split(":")[2]].grad.numpy()
        np.testing.assert_allclose(found, reference[key], atol=TOLERANCE * np.abs(reference[key]).max())


def test_a_saved_model_has_the_files_of_sentence_transformers(tmp_path):
    model = build("max", normalize=True)
    model.save_pretrained(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    assert Pooling.read(tmp_path) == Pooling("max", normalize=True)


def test_pooling_leaves_out_padding():
    hidden = np.random.default_rng(3).standard_normal((2, 5, 3)).astype(np.float32) - 4
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    for kind, expected in (("mean", hidden[0, :3].mean(0)), ("max", hidden[0, :3].max(0)), ("cls", hidden[0, 0])):
        found = pool(flow.tensor(hidden), flow.tensor(mask), kind).numpy()[0]
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
