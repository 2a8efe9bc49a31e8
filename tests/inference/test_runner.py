"""Batches of different lengths: equal answers, few compiled shapes."""

from pathlib import Path

import numpy as np
import pytest

from inference import load

FIXTURES = Path(__file__).parents[1] / "fixtures" / "huggingface"


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_batch_gives_the_answers_of_single_rows(mode):
    pretraining = load(FIXTURES / "pretraining", mode=mode)
    generator = np.random.default_rng(2)
    words = ["cat", "dog", "river", "saw", "the", "ran"]
    texts = [" ".join([*generator.choice(words, n), "[MASK]", "."]) for n in generator.integers(1, 45, 70)]
    together = pretraining.fill_mask(texts, top_k=3)
    for text, answer in zip(texts[::7], together[::7], strict=True):
        alone = pretraining.fill_mask(text, top_k=3)
        assert [one["token"] for one in alone] == [one["token"] for one in answer]
        np.testing.assert_allclose([one["score"] for one in alone], [one["score"] for one in answer], atol=1e-5)


def test_few_shapes_are_compiled_and_each_once():
    model = load(FIXTURES / "pretraining", mode="graph", batch_size=5)
    generator = np.random.default_rng(3)
    texts = [
        "cat " * n + "[MASK]" * m
        for n, m in zip(generator.integers(0, 45, 200), generator.integers(1, 4, 200), strict=True)
    ]
    model.fill_mask(texts)
    count = model.num_graphs
    assert count <= model._runner.most_graphs == 4 * 2 * 2
    model.fill_mask(texts)
    assert model.num_graphs == count
