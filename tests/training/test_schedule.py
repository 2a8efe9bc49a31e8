"""Learning rates: the published formulas, and the rates that updates have in both modes."""

import numpy as np
import oneflow as flow
import pytest

from configs.training import OptimizerFlags
from launch.job_shape import JobShape
from training.distributed import World
from training.optimizer import build_optimizer
from training.schedule import learning_rates
from training.step import StepOptions, build_train_step
from utils.errors import UserError

STEPS = 13


class Scalar(flow.nn.Module):
    """One number, whose gradient is always 1.

    It also does work for a millisecond, because OneFlow may crash if a job ends before it has recorded the start.
    """

    def __init__(self):
        super().__init__()
        self.bias = flow.nn.Parameter(flow.zeros(1))
        self.register_buffer("work", flow.zeros(512, 512))

    def forward(self, input_ids, example_weights, loss_reduction):
        return {"total_loss": (self.bias * example_weights).sum() + flow.matmul(self.work, self.work).sum()}


def rates_taken(mode, flags, first_step=0):
    """The sizes of updates; Adam's equal the learning rate while the gradient is constant."""
    model = Scalar()
    options = StepOptions(world=World(JobShape(), "cpu"), seed=1, max_grad_norm=0)
    step = build_train_step(mode, model, build_optimizer(model, flags), learning_rates(flags, STEPS), options)
    if first_step:
        beta1, beta2 = flags.adam_beta1, flags.adam_beta2
        moments = {"bias.m": 1 - beta1**first_step, "bias.v": 1 - beta2**first_step}
        step.load_state({name: np.array([value], np.float32) for name, value in moments.items()}, first_step)
    values = [0.0]
    for _ in range(first_step, STEPS):
        step({"input_ids": np.zeros((2, 1), np.int32), "example_weights": np.ones(2, np.float32)})()
        values.append(float(model.bias.numpy()[0]))
    return -np.diff(values)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(
    "words",
    [
        {"lr_schedule": "linear", "warmup_steps": 4},
        {"lr_schedule": "linear", "warmup_proportion": 0.0, "end_learning_rate": 0.05},
        {"lr_schedule": "polynomial", "lr_decay_power": 0.5, "end_learning_rate": 0.02, "warmup_steps": 3},
        {"lr_schedule": "cosine", "warmup_steps": 2},
        {"lr_schedule": "constant", "warmup_steps": 5},
        {"lr_schedule": "onecycle", "warmup_steps": 5},
    ],
    ids=lambda words: "-".join(str(value) for value in words.values()),
)
def test_updates_have_the_learning_rates_of_the_table(mode, words):
    flags = OptimizerFlags(lr=0.25, optim_name="adamw", **words)
    np.testing.assert_allclose(rates_taken(mode, flags), learning_rates(flags, STEPS), atol=2e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_resumed_run_continues_with_the_next_learning_rate(mode):
    flags = OptimizerFlags(lr=0.25, lr_schedule="linear", warmup_steps=4)
    np.testing.assert_allclose(rates_taken(mode, flags, first_step=6), learning_rates(flags, STEPS)[6:], atol=2e-5)


def test_linear_warmup_and_decay_at_the_ends():
    rates = learning_rates(OptimizerFlags(lr=0.3, lr_schedule="linear", warmup_steps=3), 9)
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05], atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "warmup", "high", "low"), [(14064, 2812, 0.005, 0.0003), (6248, 625, 0.004, 0.0)], ids=["128", "512"]
)
def test_polynomial_decay_of_large_batch_pretraining(steps, warmup, high, low):
    flags = OptimizerFlags(
        optim_name="lamb", lr=high, end_learning_rate=low, lr_decay_power=0.5, warmup_steps=warmup, lr_schedule=None
    )
    n = np.arange(1, steps + 1)
    expected = (high - low) * ((steps - n) / (steps - warmup)).clip(0) ** 0.5 + low
    expected = np.where(n <= warmup, high * n / warmup, expected)
    np.testing.assert_allclose(learning_rates(flags, steps), expected, rtol=1e-12)


def test_a_warmup_longer_than_the_run_is_an_error():
    with pytest.raises(UserError, match="--warmup_steps 20"):
        learning_rates(OptimizerFlags(warmup_steps=20), STEPS)
