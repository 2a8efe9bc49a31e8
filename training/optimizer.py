"""Optimizers with BERT's settings, and their state by parameter name, identical in both modes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import oneflow as flow
from oneflow import nn
from oneflow.optim.optimizer import Optimizer

import kernels
from configs.training import OptimizerFlags
from modeling.layout import to_numpy
from modeling.pretrained import PretrainedModel
from utils.errors import UserError


def build_optimizer(model: nn.Module, flags: OptimizerFlags) -> Optimizer:
    """Adam, AdamW or LAMB; biases and LayerNorm are not decayed, as in google-research/bert optimization.py."""
    named = trained_parameters(model)
    groups = [
        {"params": [p for name, p in named if decays(name)], "weight_decay": flags.weight_decay},
        {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0},
    ]
    shared: dict[str, Any] = {
        "lr": flags.lr,
        "betas": (flags.adam_beta1, flags.adam_beta2),
        "eps": flags.adam_epsilon,
    }
    for group in groups:
        if flags.norm_limit:  # for graph mode; eager mode clips in the step
            group |= {"clip_grad_max_norm": flags.norm_limit, "clip_grad_norm_type": 2.0}
    if flags.optim_name == "lamb":
        # Parameters without decay have a trust ratio of 1, so all others need a decay above 0.
        groups[0]["weight_decay"] = max(flags.weight_decay, 1e-30)
        return Lamb(groups, **shared)
    if flags.optim_name == "adam":  # AdamW without weight decay is Adam (Kingma & Ba 2015)
        groups = [{**group, "weight_decay": 0.0} for group in groups]
    return AdamW(groups, **shared, do_bias_correction=flags.optim_name != "bert_adam")


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are updated, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def weight_norm(model: PretrainedModel) -> float:
    """The L2 norm of all parameters of a model together."""
    with flow.no_grad():
        norms = [float(parameter.norm().numpy()) for _, parameter in model.own_parameters()]
    return math.sqrt(math.fsum(norm * norm for norm in norms))


def decays(name: str) -> bool:
    """Whether weight decay applies to the parameter of this name."""
    return not name.endswith(("bias", "LayerNorm.weight"))


class _OneGroupInGraph(Optimizer):
    """Merges the parameter groups in the compiled job, which would otherwise clip each group by its own norm."""

    def _generate_conf_for_graph(self, train_conf: Any, vars_conf: Any) -> list[Any]:
        confs = super()._generate_conf_for_graph(train_conf, vars_conf)
        first = confs[0]
        names = [name for conf in confs for name in conf.variable_op_names]
        rates = [group["weight_decay"] for group in self.param_groups]
        excluded = [n for rate, conf in zip(rates, confs, strict=True) if not rate for n in conf.variable_op_names]
        del first.variable_op_names[:]
        first.variable_op_names.extend(names)
        del train_conf.optimizer_conf[len(train_conf.optimizer_conf) - len(confs) + 1 :]
        first.weight_decay_conf.weight_decay_rate = max(rates)
        first.weight_decay_conf.excludes.pattern.extend(f"^{re.escape(name)}$" for name in excluded)
        return [first]


class AdamW(_OneGroupInGraph, flow.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""


class Lamb(_OneGroupInGraph, flow.optim.LAMB):
    """LAMB (You et al. 2020) as TensorFlow Addons computes it.

    The moments are bias-corrected, the update in the trust ratio's denominator includes the decay, and parameters
    without decay have a ratio of 1. OneFlow's own kernel differs in the last two points. The CPU kernels replace it
    under the same name; without them, eager mode computes LAMB from elementary operations.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        if lamb_kernel_on("cuda" if self.param_groups[0].parameters[0].is_cuda else "cpu"):
            super().step(closure)
            return
        with flow.no_grad():
            self._state["step"] += 1
            for group in self.param_groups:
                for parameter in group.parameters:
                    self._update(parameter, group, self._state["step"])

    def _update(self, parameter: nn.Parameter, group: Any, step: int) -> None:
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        moments = self._state[parameter]
        if not moments:
            moments |= {name: flow.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        mean, square = moments["exp_avg"], moments["exp_avg_sq"]
        mean.mul_(beta1).add_(parameter.grad * (1 - beta1))
        square.mul_(beta2).add_(parameter.grad * parameter.grad * (1 - beta2))
        update = mean / (1 - beta1**step) / (flow.sqrt(square / (1 - beta2**step)) + group["eps"]) + decay * parameter
        if decay:
            norm, update_norm = parameter.norm(), update.norm()
            ratio = flow.where(norm * update_norm > 0, norm / update_norm, flow.ones_like(norm))
            update = update * ratio
        parameter.sub_(update * group["lr"])


def lamb_kernel_on(device: str) -> bool:
    """Whether the framework's op `lamb_update` is replaced by the published formula on this device."""
    return kernels.is_loaded() and device == "cpu"


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, np.ndarray]:
    """Copies of the eager optimizer's moments, {"<parameter>.m", "<parameter>.v": array}."""
    state: dict[str, np.ndarray] = {}
    for name, parameter in trained_parameters(model):
        moments = optimizer._state[parameter]
        if moments:
            state[f"{name}.m"], state[f"{name}.v"] = to_numpy(moments["exp_avg"]), to_numpy(moments["exp_avg_sq"])
    return state


def own_moments(state: dict[str, np.ndarray], model: nn.Module, source: str) -> dict[str, np.ndarray]:
    """The state without averages of weights, and without the moments of parameters that this model does not have.

    Args:
        state: as a checkpoint stores it.
        model: the model to train.
        source: the checkpoint, for messages.

    Raises:
        UserError: moments of the encoder are missing, another part has only some of its moments, or one has a wrong
            shape, type or value. If the loss does not use a part, such as the pooler, that part has no moments.
    """
    parameters = dict(trained_parameters(model))
    expected = {f"{name}.{letter}": parameter for name, parameter in parameters.items() for letter in "mv"}
    present = {_part(name) for name in state}
    for name, parameter in expected.items():
        encoder = "encoder." in name or "embeddings." in name
        if name not in state and (encoder or _part(name) in present):
            raise UserError(f"{source} lacks the optimizer's state {name}: resume an older checkpoint.")
        if name in state and not _usable(state[name], tuple(parameter.shape)):
            raise UserError(
                f"{source}: the optimizer's state {name} does not contain finite 32-bit numbers of shape "
                f"{list(parameter.shape)}: resume an older checkpoint."
            )
    # Names without a dot belong to the whole run, such as a compiled job's counters.
    return {name: array for name, array in state.items() if name in expected or "." not in name}


def _part(name: str) -> str:
    """The part of a model that a tensor belongs to, such as "bert.pooler"."""
    return ".".join(name.split(".")[:2])


def _usable(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    return array.dtype == np.float32 and array.shape == shape and bool(np.isfinite(array).all())


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, state: dict[str, np.ndarray], step: int) -> None:
    """Restores moments, as `optimizer_state` returns them, in the eager optimizer; its next update is number `step`."""
    for name, parameter in trained_parameters(model):
        if f"{name}.m" in state:
            optimizer._state[parameter] = {
                moment: flow.tensor(state[f"{name}.{letter}"], device=parameter.device)
                for moment, letter in (("exp_avg", "m"), ("exp_avg_sq", "v"))
            }
    optimizer._state["step"] = step
