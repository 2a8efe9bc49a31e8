"""The one switch: a training or evaluation step, run eagerly or compiled. Nothing outside this file knows the mode.

    step = build_train_step(mode, model, optimizer, rates, run)
    metrics = step(batch)       # one update on this rank's rows of one whole batch, whatever the accumulation

What the modes do differently: accumulation (graph splits the batch itself; eager loops), clipping, learning rate,
mixed precision and loss scaling, optimizer state. What they share: the weights of a batch, each kind divided by its
sum over all ranks and micro-batches, so that losses summed over parts are the whole batch's means.

Shapes: `A` micro-batches of an update, `B` rows of one micro-batch on one rank; a batch's arrays are [A*B, ...].
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import numpy as np
import oneflow as flow
from oneflow import nn
from oneflow.optim.optimizer import Optimizer

import kernels
from data.loader import Batch
from modeling import dropout
from modeling.pretrained import PretrainedModel, to_numpy
from training.distributed import World
from training.optimizer import load_optimizer_state, optimizer_state, trained_parameters
from training.schedule import TableScheduler

Mode = Literal["eager", "graph"]
Model = TypeVar("Model", bound=PretrainedModel)
Metrics = Callable[[], dict[str, float]]  # waits for the device and reads the values, over all ranks


@dataclass(frozen=True)
class StepOptions:
    """What a step needs to know of its run."""

    world: World
    seed: int
    grad_acc_steps: int = 1
    micro_rows: int | None = None  # one rank's rows of a micro-batch, where their number grows; None: it is constant
    max_grad_norm: float = 1.0  # 0: never clip by norm
    clip_value: float = 0.0  # 0: never clip by value
    use_fp16: bool = False  # CUDA's: graph mode with dynamic loss scaling, eager mode without any
    nccl_fusion_threshold_mb: int = 16
    nccl_fusion_max_ops: int = 24


class TrainStep(Protocol):
    """One update of the model; its optimizer state can be read and put back."""

    def __call__(self, batch: Batch) -> Metrics: ...

    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's moments, {"<parameter>.m", "<parameter>.v"}."""
        ...

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        """Puts moments back; the next update is number `step`. To be called before the first update."""
        ...


def place(mode: Mode, model: Model, world: World) -> Model:
    """Puts a model's parameters where its steps need them; an optimizer is made after this."""
    model.to(world.device)
    if mode == "graph" and world.size > 1:
        model.to_global(placement=world.placement, sbp=flow.sbp.broadcast)
    return model


def build_train_step(
    mode: Mode, model: PretrainedModel, optimizer: Optimizer, rates: np.ndarray, options: StepOptions
) -> TrainStep:
    """A step that updates a placed model; `rates` is the learning rate of each update."""
    model.train()
    kinds: dict[str, type] = {"eager": EagerTrainStep, "graph": GraphTrainStep}
    if options.micro_rows is None:
        return kinds[mode](model, optimizer, rates, options)
    return GrowingTrainStep(
        options.micro_rows, lambda n: kinds[mode](model, optimizer, rates, replace(options, grad_acc_steps=n))
    )


def build_eval_step(
    mode: Mode, model: PretrainedModel, world: World, outputs: Sequence[str] = ()
) -> Callable[[Batch], dict[str, np.ndarray]]:
    """A step that gives a placed model's outputs for this rank's rows of a batch, without gradients and dropout.

    It returns the scalars (losses and accuracies), summed over the rows of all ranks, and the arrays named in
    `outputs` with all ranks' rows, the same on every rank.
    """
    kinds: dict[str, type] = {"eager": EagerEvalStep, "graph": GraphEvalStep}
    return kinds[mode](model, world, frozenset(outputs))


def normalized(batch: Batch, world: World) -> Batch:
    """The batch with each `*_weights` array divided by its sum over all ranks."""
    names = sorted(name for name in batch if name.endswith("_weights"))
    totals = world.sum(np.array([batch[name].sum(dtype=np.float64) for name in names]))
    scaled = {name: batch[name] / np.float32(max(total, 1e-12)) for name, total in zip(names, totals, strict=True)}
    return {**batch, **scaled}


def to_tensors(batch: Mapping[str, np.ndarray], device: str) -> dict[str, flow.Tensor]:
    """Tensors on the device; the arrays must not be written to afterwards."""
    return {name: flow.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in batch.items()}


def scalars(outputs: Mapping[str, flow.Tensor], names: frozenset[str] = frozenset()) -> dict[str, flow.Tensor]:
    """The losses and accuracies among a model's outputs, and those of the given names."""
    return {name: value for name, value in outputs.items() if value.dim() == 0 or name in names}


class EagerTrainStep:
    """Operation by operation; the gradients of micro-batches and ranks are added up before one update."""

    def __init__(self, model: PretrainedModel, optimizer: Optimizer, rates: np.ndarray, options: StepOptions) -> None:
        self.model, self.optimizer, self.options = model, optimizer, options
        self.parameters = [parameter for _, parameter in trained_parameters(model)]
        self.scheduler = TableScheduler(optimizer, rates)
        self.step = 0

    def __call__(self, batch: Batch) -> Metrics:
        world = self.options.world
        _begin_step(self.options, self.step)
        tensors = to_tensors(normalized(batch, world), world.device)
        rows = len(batch["input_ids"]) // self.options.grad_acc_steps
        sums: dict[str, flow.Tensor] = {}
        for micro in range(self.options.grad_acc_steps):
            flow.manual_seed(dropout_seed(self.options.seed, self.step, world.rank, micro))
            part = {name: tensor[micro * rows : (micro + 1) * rows] for name, tensor in tensors.items()}
            with flow.autocast("cuda", dtype=flow.float16) if self.options.use_fp16 else nullcontext():
                outputs = scalars(self.model(**part, loss_reduction="sum"))
            outputs["total_loss"].backward()
            sums = {name: sums[name] + value if sums else value for name, value in _detached(outputs).items()}
        world.sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm or float("inf"))
        if self.options.clip_value:
            _clip_values(self.parameters, self.options.clip_value)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.step += 1

        def read() -> dict[str, float]:
            values = world.sum(np.array([value.numpy() for value in sums.values()], np.float64))
            return {**dict(zip(sums, map(float, values), strict=True)), "grad_norm": float(norm.numpy())}

        return read

    def state(self) -> dict[str, np.ndarray]:
        return optimizer_state(self.optimizer, self.model)

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        load_optimizer_state(self.optimizer, self.model, state, step)
        self.scheduler.last_step = step - 1
        self.scheduler.step()
        self.step = step


class GraphTrainStep:
    """Forward, backward and update compiled into one job at the first call."""

    def __init__(self, model: PretrainedModel, optimizer: Optimizer, rates: np.ndarray, options: StepOptions) -> None:
        gc.collect()  # an earlier job torn down amid this one's compilation has corrupted the framework's memory
        self.model, self.options = model, options
        self.graph = _TrainGraph(model, optimizer, TableScheduler(optimizer, rates), options)
        self.sites: list[dropout.Site] | None = None
        self.step = 0

    def __call__(self, batch: Batch) -> Metrics:
        world, accumulation = self.options.world, self.options.grad_acc_steps
        _begin_step(self.options, self.step)
        scaled = normalized(batch, world)
        # The compiled job averages over micro-batches where eager mode adds.
        scaled |= {name: array * accumulation for name, array in scaled.items() if name.endswith("_weights")}
        if _stock_dropout(world):
            scaled |= self._dropout_masks(batch)
        tensors = {name: world.split(tensor) for name, tensor in to_tensors(scaled, world.device).items()}
        outputs = self.graph(**tensors)
        self.step += 1

        def read() -> dict[str, float]:
            values = {name: float(np.mean(value.numpy())) for name, value in outputs.items()}
            norm = kernels.last_gradient_norm() if self.options.max_grad_norm else None
            return values if norm is None else {**values, "grad_norm": norm}

        return read

    def state(self) -> dict[str, np.ndarray]:
        prefix, stored = f"{_TrainGraph.MODEL}.", self.graph.state_dict()
        moments = {
            f"{name.removeprefix(prefix)[:-2]}.{name[-1]}": to_numpy(value)
            for name, value in stored.items()
            if name.startswith(prefix) and name.endswith(("-m", "-v"))
        }
        return moments | {name: to_numpy(stored[own]) for name, own in self._counters().items() if own in stored}

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        world = self.options.world
        loaded: dict[str, flow.Tensor | dict[str, flow.Tensor]] = {
            f"{_TrainGraph.MODEL}.{name[:-2]}-{name[-1]}": self._whole(array)
            for name, array in state.items()
            if name.endswith((".m", ".v"))
        }
        # Mixed precision skips updates whose gradients overflowed: the job's own count may be less than the run's.
        counters = {"updates": np.array([step], np.int64), **state}
        for name, own in self._counters().items():
            if name in counters:
                on_cpu = name == "updates" and world.size == 1
                loaded[own] = self._whole(counters[name], "cpu" if on_cpu else None)
        self.graph.load_state_dict(loaded)
        self.step = step

    def _dropout_masks(self, batch: Batch) -> Batch:
        world, accumulation = self.options.world, self.options.grad_acc_steps
        if self.sites is None:
            rows = len(batch["input_ids"]) // accumulation
            part = to_tensors({name: array[:rows] for name, array in batch.items()}, world.device)
            with dropout.record() as sites, flow.no_grad():
                self.model(**{name: world.split(tensor) for name, tensor in part.items()}, loss_reduction="sum")
            self.sites = [dropout.Site((site.shape[0] // world.size, *site.shape[1:]), site.rate) for site in sites]
        drawn = [
            dropout.draw(self.sites, dropout_seed(self.options.seed, self.step, world.rank, micro))
            for micro in range(accumulation)
        ]
        return {f"{_MASK}{site}": np.concatenate(parts) for site, parts in enumerate(zip(*drawn, strict=True))}

    def _counters(self) -> dict[str, str]:
        """What the job counts, under the names of a checkpoint and the job's own."""
        counters = {"updates": "System-Train-TrainStep"}
        if self.options.use_fp16:
            scaler = f"System-Train-DynamicLossScale-{self.graph.name}"
            counters |= {"loss_scale": f"{scaler}-LossScale", "good_steps": f"{scaler}-GoodStepCounter"}
        return counters

    def _whole(self, array: np.ndarray, device: str | None = None) -> flow.Tensor:
        world = self.options.world
        tensor = flow.tensor(array, device=device or world.device)
        return tensor if world.size == 1 else tensor.to_global(placement=world.placement, sbp=flow.sbp.broadcast)


class GrowingTrainStep:
    """Updates of a changing number of micro-batches: a step for each number, which takes over the moments."""

    def __init__(self, micro_rows: int, build: Callable[[int], TrainStep]) -> None:
        self.micro_rows, self.build = micro_rows, build
        self.micro_batches, self.step = 0, 0
        self.current: TrainStep | None = None
        self.loaded: dict[str, np.ndarray] = {}

    def __call__(self, batch: Batch) -> Metrics:
        micro_batches = len(batch["input_ids"]) // self.micro_rows
        if self.current is None or micro_batches != self.micro_batches:
            state = self.state()
            self.current, self.micro_batches = self.build(micro_batches), micro_batches
            if self.step:
                self.current.load_state(state, self.step)
        self.step += 1
        return self.current(batch)

    def state(self) -> dict[str, np.ndarray]:
        return self.loaded if self.current is None else self.current.state()

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        self.loaded, self.step = state, step


class _TrainGraph(nn.Graph):
    MODEL = "model"

    def __init__(self, model: nn.Module, optimizer: Optimizer, scheduler: TableScheduler, options: StepOptions) -> None:
        super().__init__()
        self.model, self.clip_value = model, options.clip_value
        for parameter in model.parameters():
            parameter.grad = None  # an earlier job leaves symbols of its own there
        self.add_optimizer(optimizer, lr_sch=scheduler)
        if options.grad_acc_steps > 1:
            self.config.set_gradient_accumulation_steps(options.grad_acc_steps)
        if options.world.device != "cpu":
            flow.boxing.nccl.set_fusion_threshold_mbytes(options.nccl_fusion_threshold_mb)
            flow.boxing.nccl.set_fusion_max_ops_num(options.nccl_fusion_max_ops)
        if options.use_fp16:
            self.config.enable_amp(True)
            self.set_grad_scaler(flow.amp.GradScaler(init_scale=2.0**15, growth_interval=2000))

    def build(self, **inputs: flow.Tensor) -> dict[str, flow.Tensor]:
        batch = {name: tensor for name, tensor in inputs.items() if not name.startswith(_MASK)}
        masks = [inputs[f"{_MASK}{site}"] for site in range(len(inputs) - len(batch))]
        with dropout.feed(masks) if masks else nullcontext():
            outputs = scalars(self.model(**batch, loss_reduction="sum"))
        outputs["total_loss"].backward()
        if self.clip_value:
            _clip_values(self.model.to(nn.Module).parameters(), self.clip_value)
        return outputs


_MASK = "dropout_mask_"


def _stock_dropout(world: World) -> bool:
    """Whether compiled dropout would be the framework's own, which cannot be seeded; on CUDA it is left at that."""
    return world.device == "cpu" and not kernels.is_loaded()


def _begin_step(options: StepOptions, step: int) -> None:
    """Tells our CPU kernels which step's dropout masks to draw."""
    kernels.set_dropout_seed(options.seed, options.world.rank)
    kernels.push_dropout_step(step)


class EagerEvalStep:
    """Operation by operation."""

    def __init__(self, model: PretrainedModel, world: World, outputs: frozenset[str]) -> None:
        self.model, self.world, self.outputs = model, world, outputs

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        with _evaluating(self.model), flow.no_grad():
            results = self.model(**to_tensors(batch, self.world.device), loss_reduction="sum")
        return {
            name: self.world.sum(value.numpy()) if value.dim() == 0 else self.world.gather_rows(value)
            for name, value in scalars(results, self.outputs).items()
        }


class GraphEvalStep:
    """Compiled at the first batch; another shape is another graph."""

    def __init__(self, model: PretrainedModel, world: World, outputs: frozenset[str]) -> None:
        self.model, self.world, self.outputs = model, world, outputs
        self.graphs: dict[tuple, _EvalGraph] = {}

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        tensors = {name: self.world.split(t) for name, t in to_tensors(batch, self.world.device).items()}
        shape = tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())
        with _evaluating(self.model):
            if shape not in self.graphs:
                self.graphs[shape] = _EvalGraph(self.model, self.outputs)
            results = self.graphs[shape](**tensors)
        return {name: np.array(value.numpy()) for name, value in results.items()}


class _EvalGraph(nn.Graph):
    def __init__(self, model: nn.Module, outputs: frozenset[str]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def build(self, **batch: flow.Tensor) -> dict[str, flow.Tensor]:
        return scalars(self.model(**batch, loss_reduction="sum"), self.outputs)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode from before afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def dropout_seed(*parts: int) -> int:
    """One 63-bit seed from a run's seed, the step, the rank and the micro-batch, spread by numpy's SeedSequence."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _clip_values(parameters: Iterable[nn.Parameter], limit: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clamp(-limit, limit)


def _detached(outputs: Mapping[str, flow.Tensor]) -> dict[str, flow.Tensor]:
    return {name: value.detach() for name, value in outputs.items()}
