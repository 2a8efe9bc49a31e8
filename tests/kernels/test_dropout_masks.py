"""The kernels' dropout masks against a reference in Python, and eager mode against compiled jobs."""

import ctypes

import numpy as np
import oneflow as flow
import pytest
from oneflow import nn

import kernels
from kernels import plugin
from modeling import dropout

pytestmark = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")

ROWS, COLUMNS, RATE = 7, 37, 0.3
MASK64 = 2**64 - 1


def philox(key, counter):
    """Philox4x32-10 (Salmon et al. 2011) of a 64-bit key and four 32-bit counters, in Python integers."""
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    c = list(counter)
    for _ in range(10):
        even, odd = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(odd >> 32) ^ c[1] ^ k0, odd & 0xFFFFFFFF, (even >> 32) ^ c[3] ^ k1, even & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def mix(key, number):
    z = ((key ^ number) + 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def expected_mask(seed, step, layer, run, size, first=0):
    """Element e is word (e % 64) // 16 of block 16 * (e // 64) + e % 16."""
    key = mix(mix(seed, layer), run)
    kept = []
    for e in range(first, first + size):
        block = 16 * (e // 64) + e % 16
        words = philox(key, (block & 0xFFFFFFFF, block >> 32, step & 0xFFFFFFFF, step >> 32))
        kept.append(words[e % 64 // 16] >= round(float(np.float32(RATE)) * 2**32))
    return np.array(kept)


def begin(seed, step, rank=0):
    dropout.begin_step(seed, step, rank)
    dropout.restart()


def drawn(rows=ROWS, columns=COLUMNS):
    """Which elements the next dropout call keeps."""
    return dropout.dropout(flow.ones(rows, columns), RATE).numpy() > 0


@pytest.mark.parametrize(
    ("key", "block", "step", "words"),
    [  # test vectors published with Random123
        (0, 0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (MASK64, MASK64, MASK64, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            0x299F31D0A4093822,
            0x85A308D3243F6A88,
            0x0370734413198A2E,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_test_vectors(key, block, step, words):
    four = (ctypes.c_uint32 * 4)()
    plugin.library().kernels_philox(key, block, step, four)
    assert list(four) == words
    counter = (block & 0xFFFFFFFF, block >> 32, step & 0xFFFFFFFF, step >> 32)
    assert philox(key, counter) == words


def test_masks_follow_the_formula():
    begin(seed=5, step=3)
    first, second = drawn(), drawn()
    np.testing.assert_array_equal(first.ravel(), expected_mask(5, 3, layer=0, run=0, size=ROWS * COLUMNS))
    np.testing.assert_array_equal(second.ravel(), expected_mask(5, 3, layer=1, run=0, size=ROWS * COLUMNS))
    dropout.restart()  # the second micro-batch of the step
    np.testing.assert_array_equal(drawn().ravel(), expected_mask(5, 3, layer=0, run=1, size=ROWS * COLUMNS))


def test_ranks_draw_their_parts_of_the_whole_batchs_mask():
    begin(seed=5, step=3)
    whole = drawn(2 * ROWS)
    begin(seed=5, step=3, rank=0)
    upper = drawn()
    begin(seed=5, step=3, rank=1)
    np.testing.assert_array_equal(np.concatenate([upper, drawn()]), whole)


def test_masks_of_other_seeds_steps_and_layers_agree_only_by_chance():
    masks = []
    for seed in (1, 2):
        for step in (0, 1):
            begin(seed, step)
            masks += [drawn(100), drawn(100)]
    by_chance = RATE**2 + (1 - RATE) ** 2
    for i, one in enumerate(masks):
        assert abs(one.mean() - (1 - RATE)) < 0.03
        for other in masks[:i]:
            assert abs((one == other).mean() - by_chance) < 0.04


class Layers(nn.Module):
    """Two dropout calls behind a parameter, the second one fused with attention's softmax."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(flow.ones(COLUMNS))

    def forward(self, x, keep):
        dropout.restart()
        hidden = dropout.dropout(x * self.weight, RATE)
        scores = hidden.reshape(1, 1, -1, COLUMNS)
        probs = flow._C.fused_scale_mask_softmax_dropout(
            scores, keep, fill_value=-1e4, scale=0.5, p=RATE, generator=dropout.generator(x)
        )[0]
        return hidden.sum() + (probs * probs).sum()


class TrainGraph(nn.Graph):
    def __init__(self, model, accumulation):
        super().__init__()
        model.weight.grad = None  # a graph cannot add to a gradient from eager mode
        self.model = model
        self.add_optimizer(flow.optim.SGD(model.parameters(), lr=0.0))
        if accumulation > 1:
            self.config.set_gradient_accumulation_steps(accumulation)

    def build(self, x, keep):
        loss = self.model(x, keep)
        loss.backward()
        return loss


@pytest.mark.parametrize("accumulation", [1, 3])
def test_both_modes_and_a_resumed_job_draw_the_same_masks(accumulation):
    model = Layers()
    x = flow.tensor(np.random.default_rng(0).standard_normal((accumulation * ROWS, COLUMNS), np.float32))
    keep = flow.ones(accumulation, 1, 1, COLUMNS, dtype=flow.bool)

    def run(graph, steps):
        losses = []
        for step in steps:
            dropout.begin_step(11, step, 0)
            if graph is None:
                parts = [model(x[i * ROWS : (i + 1) * ROWS], keep[i : i + 1]) for i in range(accumulation)]
                losses.append([part.item() for part in parts])
            else:
                losses.append(graph(x, keep).numpy().reshape(-1).tolist())
        return losses

    eager = run(None, range(6))
    graph = run(TrainGraph(model, accumulation), range(6))
    np.testing.assert_allclose(graph, eager, rtol=1e-5)
    assert len({round(loss, 3) for step in eager for loss in step}) == 6 * accumulation
    assert run(TrainGraph(model, accumulation), range(3, 6)) == graph[3:]
