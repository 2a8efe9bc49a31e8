"""Means from sums."""

import math

import pytest

from evaluation.masked_lm import pretraining_metrics


def test_means_and_perplexity():
    sums = {"mlm_loss": 21.0, "mlm_accuracy": 3.5, "nsp_loss": 5.0, "nsp_accuracy": 4.0, "total_loss": 99.0}
    metrics = pretraining_metrics(sums, masked_tokens=7, records=5)
    assert metrics == {
        "eval_total_loss": 4.0,
        "eval_mlm_loss": 3.0,
        "eval_mlm_accuracy": 0.5,
        "eval_nsp_loss": 1.0,
        "eval_nsp_accuracy": 0.8,
        "eval_perplexity": pytest.approx(math.exp(3)),
    }


def test_without_next_sentences():
    assert pretraining_metrics({"mlm_loss": 4.0}, 2, 1)["eval_total_loss"] == 2.0


def test_a_hopeless_model_has_a_finite_perplexity():
    assert math.isfinite(pretraining_metrics({"mlm_loss": 1e9}, 1, 1)["eval_perplexity"])
