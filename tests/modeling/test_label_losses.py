"""Losses with class weights, label smoothing and several labels equal PyTorch's.

The reference values come from `tests/fixtures/make_classifier_reference.py`.
"""

from pathlib import Path

import numpy as np
import oneflow as flow
import pytest

from data.classification import smoothed
from modeling import losses

REFERENCE = Path(__file__).parents[1] / "fixtures" / "classifiers" / "losses.npz"


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as file:
        return dict(file)


def check(reference, name, loss_of):
    logits = flow.tensor(reference["logits"], requires_grad=True)
    loss = loss_of(logits)
    loss.backward()
    np.testing.assert_allclose(loss.numpy(), reference[f"loss:{name}"], rtol=1e-5)
    np.testing.assert_allclose(logits.grad.numpy(), reference[f"grad:{name}"], rtol=1e-5, atol=1e-7)


def test_class_weights(reference):
    labels = flow.tensor(reference["labels"])
    weights = flow.tensor(reference["weights"][reference["labels"]])
    check(reference, "weighted", lambda logits: losses.cross_entropy(logits, labels, weights, "mean"))


@pytest.mark.parametrize(("name", "weighted"), [("smoothed", False), ("both", True)])
def test_label_smoothing_with_and_without_class_weights(reference, name, weighted):
    classes = reference["weights"] if weighted else np.ones(5, np.float32)
    targets = flow.tensor(smoothed(reference["labels"], 0.13, classes))
    weights = flow.tensor(classes[reference["labels"]])
    check(reference, name, lambda logits: losses.soft_cross_entropy(logits, targets, weights, "mean"))


def test_weights_of_several_labels(reference):
    labels, ones = flow.tensor(reference["several"]), flow.ones(7)
    scales = flow.tensor(np.where(reference["several"] > 0, reference["weights"], 1).astype(np.float32))
    check(
        reference,
        "several_weighted",
        lambda logits: losses.binary_cross_entropy(logits, labels, scales, ones, "mean"),
    )
