"""Learning rates compared with the formulas of the systems that they come from."""

import math

import numpy as np
import pytest

from configs.training import BatchFlags, OptimizerFlags
from training.schedule import BatchSchedule, learning_rates
from utils.errors import UserError


def google(step, *, lr, warmup, total):
    """optimization.py: polynomial decay of power 1 over the whole run, and a warmup that replaces its beginning."""
    return lr * step / warmup if step < warmup else lr * (1 - step / total)


def hugging_face(step, *, lr, warmup, total):
    return lr * step / warmup if step < warmup else lr * max(0, (total - step) / (total - warmup))


def hugging_face_cosine(step, *, lr, warmup, total):
    if step < warmup:
        return lr * step / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def aws(step, *, lr, warmup, total, end, power):
    step += 1
    if step <= warmup:
        return lr * step / warmup
    return (lr - end) * ((total - step) / (total - warmup)) ** power + end


def nvidia(step, *, lr, warmup, total, power):
    progress = (step + 1) / total
    return lr * progress / (warmup / total) if progress < warmup / total else lr * (1 - progress) ** power


def optax_onecycle(step, *, lr, warmup, total, pct_final, div, final_div):
    corners = {0: lr / div, warmup: lr, int(pct_final * total): lr / div, total: lr / div / final_div}
    borders = sorted(corners)
    start = max(border for border in borders if border <= step)
    end = min(border for border in borders if border > step)
    return corners[start] + (corners[end] - corners[start]) * (step - start) / (end - start)


LR, WARMUP, TOTAL = 5e-3, 7, 37
RUN = {"lr": LR, "warmup": WARMUP, "total": TOTAL}


@pytest.mark.parametrize(
    ("reference", "settings"),
    [
        (lambda s: google(s, **RUN), {"lr_decay_from": "start"}),
        (lambda s: hugging_face(s, **RUN), {}),
        (lambda s: hugging_face_cosine(s, **RUN), {"lr_schedule": "cosine"}),
        (lambda s: min(1, s / WARMUP) * LR, {"lr_schedule": "constant"}),
        (
            lambda s: aws(s, **RUN, end=3e-4, power=0.5),
            {"lr_decay_power": 0.5, "end_learning_rate": 3e-4},
        ),
        (
            lambda s: nvidia(s, **RUN, power=0.5),
            {"lr_decay_power": 0.5, "lr_decay_from": "start"},
        ),
        (
            lambda s: optax_onecycle(s, **RUN, pct_final=0.7, div=11, final_div=50),
            {
                "lr_schedule": "onecycle",
                "onecycle_pct_final": 0.7,
                "onecycle_div_factor": 11.0,
                "onecycle_final_div_factor": 50.0,
            },
        ),
    ],
    ids=["google", "hugging_face", "cosine", "constant", "aws", "nvidia", "onecycle"],
)
def test_learning_rates_equal_those_of_other_systems(reference, settings):
    rates = learning_rates(OptimizerFlags(lr=LR, warmup_steps=WARMUP, **settings), TOTAL)
    np.testing.assert_allclose(rates, [reference(step) for step in range(TOTAL)], rtol=1e-12, atol=1e-18)


def test_square_root_scaling():
    """Flax's recipe: 6.25e-4 for 512 sequences is 6.25e-4 * sqrt(8) for 4096."""
    flags = OptimizerFlags(lr=6.25e-4, lr_for_batch=512, lr_schedule="constant", warmup_steps=0)
    np.testing.assert_allclose(learning_rates(flags, 3, 4096), 0.0017677669529663688, rtol=1e-12)


def test_a_warmup_longer_than_the_cycle_is_an_error():
    with pytest.raises(UserError, match="--onecycle_pct_final"):
        learning_rates(OptimizerFlags(lr_schedule="onecycle", warmup_steps=36), TOTAL)


def test_batches_grow_to_their_peak():
    sizes = BatchSchedule.of(
        BatchFlags(train_batch_size=3, grad_acc_steps=5, grad_acc_ramp_steps=8), data_parallel_size=2
    )
    counts = [sizes.micro_batches(step) for step in range(12)]
    assert counts == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    taken = 6 * np.cumsum([0, *counts])
    assert [sizes.records_before(step) for step in range(13)] == taken.tolist()
    for first in (0, 3, 9):
        stream = sizes.sizes(first)
        assert [next(stream) for _ in range(3)] == [6 * sizes.micro_batches(first + i) for i in range(3)]
        for records in (1, 6, 7, 100, 200):
            steps = sizes.steps_for(records, first)
            covered = [sizes.records_before(first + n) - sizes.records_before(first) for n in (steps - 1, steps)]
            assert covered[0] < records <= covered[1]
    assert sizes.steps_for(0) == 0


def test_nvidias_warmup_proportion_is_not_rounded():
    lr, share, total = 6e-3, 0.2843, 703
    flags = OptimizerFlags(
        lr=lr, lr_schedule="polynomial", lr_decay_power=0.5, lr_decay_from="start", warmup_proportion=share
    )
    expected = [nvidia(step, lr=lr, warmup=share * total, total=total, power=0.5) for step in range(total)]
    np.testing.assert_allclose(learning_rates(flags, total), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("total", [1, 4, 20])
def test_the_warmup_of_aws_may_last_for_the_whole_run(total):
    flags = OptimizerFlags(lr=0.01, end_learning_rate=0.001, lr_decay_power=0.5, warmup_steps=total)
    expected = [aws(step, lr=0.01, warmup=total, total=total, end=0.001, power=0.5) for step in range(total)]
    np.testing.assert_allclose(learning_rates(flags, total), expected, rtol=1e-6)


def test_a_power_without_a_schedule_means_the_one_of_aws():
    flags = OptimizerFlags(lr=0.01, lr_decay_power=1.0, warmup_steps=5)
    expected = [aws(step, lr=0.01, warmup=5, total=20, end=0.0, power=1.0) for step in range(20)]
    np.testing.assert_allclose(learning_rates(flags, 20), expected, rtol=1e-6, atol=1e-12)
    assert OptimizerFlags().schedule == "linear"
