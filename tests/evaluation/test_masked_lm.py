"""Figures from means."""

import math

import pytest

from evaluation.masked_lm import masked_lm_metrics


def test_total_loss_and_perplexity():
    means = {"mlm_loss": 3.0, "mlm_accuracy": 0.5, "nsp_loss": 1.0, "nsp_accuracy": 0.8}
    metrics = masked_lm_metrics(means, ["mlm_loss", "nsp_loss"])
    assert metrics == {
        "eval_total_loss": 4.0,
        "eval_mlm_loss": 3.0,
        "eval_mlm_accuracy": 0.5,
        "eval_nsp_loss": 1.0,
        "eval_nsp_accuracy": 0.8,
        "eval_perplexity": pytest.approx(math.exp(3)),
    }


def test_only_the_losses_are_summed():
    assert masked_lm_metrics({"nsp_loss": 4.0, "other_loss": 2.0}, ["nsp_loss"]) == {
        "eval_total_loss": 4.0,
        "eval_nsp_loss": 4.0,
        "eval_other_loss": 2.0,
    }


def test_a_hopeless_model_has_a_finite_perplexity():
    assert math.isfinite(masked_lm_metrics({"mlm_loss": 1e9}, ["mlm_loss"])["eval_perplexity"])
