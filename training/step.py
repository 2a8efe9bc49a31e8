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
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import oneflow as flow
from oneflow import nn
from oneflow.optim.optimizer import Optimizer

import kernels
from data.reading.loader import Batch
from modeling import dropout
from modeling.layout import replicate, to_numpy
from modeling.pretrained import PretrainedModel
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
    micro_rows: int | None = None  # one rank's rows of a micro-batch; None: a batch is one micro-batch
    max_grad_norm: float = 1.0  # 0: never clip by norm
    clip_value: float = 0.0  # 0: never clip by value
    use_fp16: bool = False  # CUDA's: graph mode with dynamic loss scaling, eager mode without any
    activation_checkpointing: bool = False  # eager mode's: layers are computed again for their backward pass
    nccl_fusion_threshold_mb: int = 16
    nccl_fusion_max_ops: int = 24

    def micro_batches(self, batch: Batch) -> int:
        """How many micro-batches a batch is."""
        rows = len(batch["input_ids"])
        return rows // (self.micro_rows or rows)


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
        replicate(model, world.device)
    return model


def build_train_step(
    mode: Mode, model: PretrainedModel, optimizer: Optimizer, rates: np.ndarray, options: StepOptions
) -> TrainStep:
    """A step that updates a placed model; `rates` is the learning rate of each update."""
    model.train()
    kinds: dict[str, type] = {"eager": EagerTrainStep, "graph": GraphTrainStep}
    step: TrainStep = kinds[mode](model, optimizer, rates, options)
    return step


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
        if options.activation_checkpointing:
            model.checkpoint_activations()
        self.parameters = [parameter for _, parameter in trained_parameters(model)]
        self.scheduler = TableScheduler(optimizer, rates)
        self.step = 0

    def __call__(self, batch: Batch) -> Metrics:
        world = self.options.world
        dropout.begin_step(self.options.seed, self.step, world.rank)
        tensors = to_tensors(normalized(batch, world), world.device)
        accumulation = self.options.micro_batches(batch)
        rows = len(batch["input_ids"]) // accumulation
        sums: dict[str, flow.Tensor] = {}
        for micro in range(accumulation):
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
    """Forward, backward and update compiled into one job for each shape of batch, at the first such batch.

    All jobs update the same parameters, moments and counters in place, so that shapes may come in any order.
    """

    def __init__(self, model: PretrainedModel, optimizer: Optimizer, rates: np.ndarray, options: StepOptions) -> None:
        self.model, self.optimizer, self.options = model, optimizer, options
        self.scheduler = TableScheduler(optimizer, rates)
        self.jobs: dict[tuple, _TrainGraph] = {}
        self.tensors: dict[str, flow.Tensor] = {}  # what all jobs share beside the model, under a checkpoint's names
        self.micro_batches, self.step = 0, 0
        if options.world.device != "cpu":
            flow.boxing.nccl.set_fusion_threshold_mbytes(options.nccl_fusion_threshold_mb)
            flow.boxing.nccl.set_fusion_max_ops_num(options.nccl_fusion_max_ops)

    def __call__(self, batch: Batch) -> Metrics:
        world, accumulation = self.options.world, self.options.micro_batches(batch)
        dropout.begin_step(self.options.seed, self.step, world.rank)
        job = self._job(batch)
        scaled = normalized(batch, world)
        # The compiled job averages over micro-batches where eager mode adds.
        scaled |= {name: array * accumulation for name, array in scaled.items() if name.endswith("_weights")}
        if job.sites:
            drawn = [dropout.draw(job.sites, micro) for micro in range(accumulation)]
            scaled |= {f"{_MASK}{site}": np.concatenate(parts) for site, parts in enumerate(zip(*drawn, strict=True))}
        tensors = {name: world.split(tensor) for name, tensor in to_tensors(scaled, world.device).items()}
        fresh = not job.is_compiled
        outputs = job(**tensors)
        if fresh:
            self.tensors = job.tensors()
        self.step += 1

        def read() -> dict[str, float]:
            values = {name: float(np.mean(value.numpy())) for name, value in outputs.items()}
            norm = kernels.last_gradient_norm() if self.options.max_grad_norm else None
            values |= {} if norm is None else {"grad_norm": norm}
            if "loss_scale" in self.tensors:
                values["loss_scale"] = float(self.tensors["loss_scale"].numpy())
            return values

        return read

    def state(self) -> dict[str, np.ndarray]:
        flow._oneflow_internal.eager.Sync()
        return {name: to_numpy(tensor) for name, tensor in self.tensors.items()}

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        # Mixed precision skips updates whose gradients overflowed: the job's own count may be less than the run's.
        state = {"updates": np.array([step], np.int64), **state}
        if not self.options.use_fp16:
            state = {name: array for name, array in state.items() if name not in _LOSS_SCALE}
        on_cpu = {"updates"} if self.options.world.size == 1 else set()
        self.tensors = {n: self._whole(array, "cpu" if n in on_cpu else None) for n, array in state.items()}
        self.step = step

    def _job(self, batch: Batch) -> _TrainGraph:
        """The compiled job for a batch's shape."""
        accumulation = self.options.micro_batches(batch)
        if accumulation != self.micro_batches:  # it only ever grows, and each job holds memory of its own
            self.jobs, self.micro_batches = {}, accumulation
        shape = tuple((name, array.shape) for name, array in batch.items())
        if shape not in self.jobs:
            gc.collect()  # an earlier job torn down amid this one's compilation has corrupted the framework's memory
            sites = self._dropout_sites(batch) if _stock_dropout(self.options.world) else []
            job = _TrainGraph(self.model, self.optimizer, self.scheduler, self.options, accumulation, sites)
            job.share(self.tensors)
            self.jobs[shape] = job
        return self.jobs[shape]

    def _dropout_sites(self, batch: Batch) -> list[dropout.Site]:
        """Where dropout is applied to this rank's rows of one micro-batch."""
        world = self.options.world
        part = to_tensors({name: array[: self.options.micro_rows] for name, array in batch.items()}, world.device)
        with dropout.record() as sites, flow.no_grad():
            self.model(**{name: world.split(tensor) for name, tensor in part.items()}, loss_reduction="sum")
        return [dropout.Site((site.shape[0] // world.size, *site.shape[1:]), site.rate) for site in sites]

    def _whole(self, array: np.ndarray, device: str | None = None) -> flow.Tensor:
        world = self.options.world
        tensor = flow.tensor(array, device=device or world.device)
        return tensor if world.size == 1 else replicate(tensor, world.device)


class _TrainGraph(nn.Graph):
    MODEL = "model"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: TableScheduler,
        options: StepOptions,
        micro_batches: int,
        sites: list[dropout.Site],
    ) -> None:
        super().__init__()
        self.model, self.clip_value = model, options.clip_value
        self.sites = sites  # where dropout masks are to be fed; none: the job draws its own
        for parameter in model.parameters():
            parameter.grad = None  # an earlier job leaves symbols of its own there
        self.add_optimizer(optimizer, lr_sch=scheduler)
        if micro_batches > 1:
            self.config.set_gradient_accumulation_steps(micro_batches)
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

    def tensors(self) -> dict[str, flow.Tensor]:
        """The moments and counters that the compiled job updates in place, under a checkpoint's names."""
        prefix, own = f"{self.MODEL}.", self.state_dict()
        found = {
            f"{name.removeprefix(prefix)[:-2]}.{name[-1]}": tensor
            for name, tensor in own.items()
            if name.startswith(prefix) and name.endswith(("-m", "-v"))
        }
        return found | {name: own[counter] for name, counter in self._counters().items() if counter in own}

    def share(self, tensors: Mapping[str, flow.Tensor]) -> None:
        """Lets the job, which is not compiled yet, update these tensors of another one (or of a checkpoint)."""
        counters = self._counters()
        self.load_state_dict(
            {counters.get(name) or f"{self.MODEL}.{name[:-2]}-{name[-1]}": tensor for name, tensor in tensors.items()}
        )

    def _counters(self) -> dict[str, str]:
        """What the job counts, under the names of a checkpoint and the job's own."""
        scaler = f"System-Train-DynamicLossScale-{self.name}"
        return {
            "updates": "System-Train-TrainStep",
            "loss_scale": f"{scaler}-LossScale",
            "good_steps": f"{scaler}-GoodStepCounter",
        }


_LOSS_SCALE = ("loss_scale", "good_steps")
_MASK = "dropout_mask_"


def _stock_dropout(world: World) -> bool:
    """Whether compiled dropout would be the framework's own, which cannot be seeded; on CUDA it is left at that."""
    return world.device == "cpu" and not kernels.is_loaded()


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


def _clip_values(parameters: Iterable[nn.Parameter], limit: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clamp(-limit, limit)


def _detached(outputs: Mapping[str, flow.Tensor]) -> dict[str, flow.Tensor]:
    return {name: value.detach() for name, value in outputs.items()}
