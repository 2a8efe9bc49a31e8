"""The training and evaluation steps, run eagerly or compiled. Other modules hardly depend on the mode.

    check_mode(mode, config, world)     # refuses flags that the mode does not support
    step = build_train_step(mode, model, optimizer, rates, options)
    metrics = step(batch)               # one update on this rank's rows of a whole batch, accumulation included

The modes differ in accumulation (graph mode splits the batch itself, eager mode loops), clipping, learning rate, mixed
precision, loss scaling and optimizer state. They share the normalization of weights: each `*_weights` array of a batch
is divided by its sum over all data-parallel ranks and micro-batches, so that losses summed over the parts are the means
of the whole batch.

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
from data.reading.packing import TOKENS
from modeling import dropout
from modeling.layout import place_parameter, place_parameters, to_numpy
from modeling.precision import half_precision, stored
from modeling.pretrained import PretrainedModel
from training import spikes
from training.config import TrainingConfig
from training.distributed import World
from training.finiteness import FiniteUpdates
from training.loss_scale import GROWTH_INTERVAL, INITIAL_SCALE, LossScale
from training.optimizer import lamb_kernel_on, load_optimizer_state, optimizer_state, trained_parameters
from training.schedule import TableScheduler
from utils.errors import UserError
from utils.messages import warn

Mode = Literal["eager", "graph"]
Model = TypeVar("Model", bound=PretrainedModel)
Metrics = Callable[[], dict[str, float]]  # waits for the device and returns the values, summed over all ranks


@dataclass(frozen=True)
class StepOptions:
    """The settings of a training step."""

    world: World
    seed: int
    micro_rows: int | None = None  # one rank's rows of a micro-batch; None if a batch is one micro-batch
    max_grad_norm: float = 1.0  # 0 disables clipping by norm
    clip_value: float = 0.0  # 0 disables clipping by value
    use_fp16: bool = False  # on CUDA only, with dynamic loss scaling
    activation_checkpointing: bool = False  # only in eager mode: layers are recomputed in the backward pass
    spike_factor: float | None = None  # skips updates above this many times the recent norm; None skips none
    nccl_fusion_threshold_mb: int = 16
    nccl_fusion_max_ops: int = 24

    @classmethod
    def of(cls, config: TrainingConfig, world: World) -> StepOptions:
        """Creates the settings from the flags."""
        return cls(
            world=world,
            seed=config.run.seed,
            micro_rows=config.batch.train_rows(world.shape.data_parallel_size),
            max_grad_norm=config.optimizer.norm_limit,
            clip_value=config.optimizer.clip_value if config.optimizer.clip == "value" else 0.0,
            use_fp16=config.device.use_fp16 and world.device != "cpu",
            activation_checkpointing=config.device.activation_checkpointing,
            spike_factor=config.optimizer.spike_factor if config.optimizer.skip_loss_spikes else None,
            nccl_fusion_threshold_mb=config.device.nccl_fusion_threshold_mb,
            nccl_fusion_max_ops=config.device.nccl_fusion_max_ops,
        )

    def micro_batches(self, batch: Batch) -> int:
        """The number of micro-batches in a batch."""
        if TOKENS in batch:
            return len(batch[TOKENS])
        rows = len(batch["input_ids"])
        return rows // (self.micro_rows or rows)


class TrainStep(Protocol):
    """One update of the model, with optimizer state that can be read and restored."""

    def __call__(self, batch: Batch) -> Metrics: ...

    def first_bad_update(self) -> int | None:
        """The number of the first update whose loss or gradient norm is NaN or infinite on this rank, or None."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's moments, {"<parameter>.m", "<parameter>.v"}, and all other state of the next update."""
        ...

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        """Restores the moments before the first update; the next update is number `step`."""
        ...


EvalStep = Callable[[Batch], dict[str, np.ndarray]]


def check_mode(mode: Mode, config: TrainingConfig, world: World) -> None:
    """Checks that the mode supports the flags, and warns about flags without effect in it.

    Raises:
        UserError: a flag is only supported in the other mode.
    """
    other_flag_given = config.device.use_ddp if mode == "graph" else config.device.use_consistent
    if other_flag_given:
        flag, other = ("use_ddp", "eager") if mode == "graph" else ("use_consistent", "graph")
        warn(
            f"--{flag} has no effect in {mode} mode, only in {other} mode: the launcher's processes train "
            "together without it."
        )
    if config.batch.without_padding and not (kernels.is_loaded() and world.device == "cpu"):
        raise UserError(
            f"{config.batch.without_padding} needs the CPU kernels on a CPU, because only their attention separates "
            "sequences in a row: use --padding longest."
        )
    if config.batch.packing == "best_fit" and config.optimizer.lr_for_batch is not None:
        raise UserError(
            "--lr_for_batch counts the sequences of an update, but with --packing best_fit their number varies: set "
            "--lr alone."
        )
    if mode == "eager" or not config.run.do_train:
        return
    if config.optimizer.clip == "value" and config.batch.grad_acc_steps > 1:
        raise UserError(
            "--clip value with --grad_acc_steps above 1 only works in eager mode, because a compiled job cannot access "
            "the sum over its micro-batches: use --clip norm."
        )
    if config.device.activation_checkpointing:
        raise UserError(
            "--activation_checkpointing only works in eager mode, because a compiled job would need more memory with "
            "it: lower --train-batch-size and raise --grad_acc_steps, or train in eager mode."
        )
    if config.optimizer.optim_name == "lamb" and not (config.optimizer.stock_lamb or lamb_kernel_on(world.device)):
        raise UserError(
            "--optim_name lamb in graph mode without the CPU kernels is OneFlow's variant, which omits weight decay "
            "from the trust ratio and scales biases too: accept it with --stock_lamb, or use eager mode or the CPU "
            "kernels, which implement LAMB as published."
        )
    if config.optimizer.skip_loss_spikes and not (leaves_out_updates_on(world.device) and config.optimizer.norm_limit):
        raise UserError(
            "--skip_loss_spikes in graph mode needs the CPU kernels and --clip norm, because otherwise a compiled job "
            "does not measure its gradient norm: use eager mode."
        )


def leaves_out_updates_on(device: str) -> bool:
    """Whether compiled jobs on this device can skip an update."""
    return kernels.is_loaded() and device == "cpu"


def place_model(mode: Mode, model: Model, world: World) -> Model:
    """Moves a model's parameters to the device and layout of its steps; call it before building an optimizer."""
    model.to(world.device)
    if mode == "graph" and world.shape.size > 1:
        place_parameters(model, world.device, world.shape.ranks_per_replica)
    return model


def build_train_step(
    mode: Mode, model: PretrainedModel, optimizer: Optimizer, rates: np.ndarray, options: StepOptions
) -> TrainStep:
    """Builds a step that updates a placed model; `rates` contains the learning rate of each update."""
    model.train()
    kinds: dict[str, type] = {"eager": EagerTrainStep, "graph": GraphTrainStep}
    step: TrainStep = kinds[mode](model, optimizer, rates, options)
    return step


def build_eval_step(
    mode: Mode, model: PretrainedModel, world: World, outputs: Sequence[str] = (), use_fp16: bool = False
) -> EvalStep:
    """Builds a step that computes a placed model's outputs for this rank's rows, without gradients and dropout.

    It returns the scalars (losses and accuracies), summed over the rows of all ranks, and the arrays named in `outputs`
    with the rows of all ranks; every rank gets the same values. `use_fp16` only has an effect on CUDA.
    """
    kinds: dict[str, type] = {"eager": EagerEvalStep, "graph": GraphEvalStep}
    return kinds[mode](model, world, frozenset(outputs), use_fp16 and world.device != "cpu")


def normalized(batch: Batch, world: World) -> Batch:
    """The batch with each `*_weights` array divided by its sum over the data-parallel ranks."""
    names = sorted(name for name in batch if name.endswith("_weights"))
    totals = world.sum_over_batch(np.array([batch[name].sum(dtype=np.float64) for name in names]))
    scaled = {name: batch[name] / np.float32(max(total, 1e-12)) for name, total in zip(names, totals, strict=True)}
    return {**batch, **scaled}


def to_tensors(batch: Mapping[str, np.ndarray], device: str) -> dict[str, flow.Tensor]:
    """The arrays as tensors on the device; they may share memory, so do not write to the arrays afterwards."""
    return {name: flow.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in batch.items()}


def scalars(outputs: Mapping[str, flow.Tensor], names: frozenset[str] = frozenset()) -> dict[str, flow.Tensor]:
    """The scalar outputs of a model (losses and accuracies), and the outputs with the given names."""
    return {name: value for name, value in outputs.items() if value.dim() == 0 or name in names}


class EagerTrainStep:
    """Runs operation by operation, and adds up the gradients of micro-batches and ranks before the update."""

    def __init__(self, model: PretrainedModel, optimizer: Optimizer, rates: np.ndarray, options: StepOptions) -> None:
        self.model, self.optimizer, self.options = model, optimizer, options
        if options.activation_checkpointing:
            model.checkpoint_activations()
        self.parameters = [parameter for _, parameter in trained_parameters(model)]
        self.scheduler = TableScheduler(optimizer, rates)
        self.finite, self.spikes = FiniteUpdates(), _spike_filter(options)
        self.scale = LossScale() if options.use_fp16 else None
        self.step = 0

    def __call__(self, batch: Batch) -> Metrics:
        world = self.options.world
        dropout.begin_step(self.options.seed, self.step, world.shape.data_parallel_rank)
        tensors = to_tensors(normalized(batch, world), world.device)
        accumulation = self.options.micro_batches(batch)
        sums: dict[str, flow.Tensor] = {}
        for micro in range(accumulation):
            part = {name: _part(tensor, micro, accumulation) for name, tensor in tensors.items()}
            with half_precision(self.options.use_fp16):
                outputs = scalars(self.model(**part, loss_reduction="sum"))
            (outputs["total_loss"] * self.scale.value if self.scale else outputs["total_loss"]).backward()
            sums = {name: sums[name] + value if sums else value for name, value in _detached(outputs).items()}
        world.sum_gradients(self.parameters)
        if self.scale:
            _multiply_gradients(self.parameters, 1 / self.scale.value)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm or float("inf"))
        if self.options.clip_value:
            _clip_values(self.parameters, self.options.clip_value)
        overflows = self._overflows(sums["total_loss"], norm)
        if overflows:
            pass  # the learning rate does not advance either
        elif self.spikes and world.any(self.spikes.leaves_out(float(norm.numpy()), self.step)):
            self.optimizer._state["step"] += 1  # counts for the bias correction, as in a compiled job
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not overflows:
            self.scheduler.step()
        self.step += 1
        scale = {"loss_scale": self.scale.value} if self.scale else {}

        def read() -> dict[str, float]:
            values = world.sum_over_batch(np.array([value.numpy() for value in sums.values()], np.float64))
            norms = {} if overflows else {"grad_norm": float(norm.numpy())}
            return dict(zip(sums, map(float, values), strict=True)) | norms | scale

        return read

    def _overflows(self, loss: flow.Tensor, norm: flow.Tensor) -> bool:
        """Records whether the update is finite; returns whether the scaled gradients overflowed."""
        if self.scale is None or self.scale.is_smallest:
            self.finite.add(loss, norm)
        else:
            self.finite.add(loss)
        if self.scale is None:
            return False
        overflows = not np.isfinite(norm.numpy()).all()
        self.scale.record(overflows)
        return overflows

    def first_bad_update(self) -> int | None:
        return self.finite.first_bad(self.step)

    def state(self) -> dict[str, np.ndarray]:
        state = optimizer_state(self.optimizer, self.model) | (self.spikes.state() if self.spikes else {})
        if self.scale:
            updates = np.array([self.optimizer._state["step"]], np.int64)
            state |= {"updates": updates, **self.scale.state()}
        return state

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        updates = step
        if self.scale:
            self.scale.load_state(state)
            updates = int(state.get("updates", np.array(step)).reshape(-1)[0])
        load_optimizer_state(self.optimizer, self.model, state, updates)
        if self.spikes:
            self.spikes.load_state(state)
        self.scheduler.last_step = updates - 1
        self.scheduler.step()
        self.finite, self.step = FiniteUpdates(step), step


class GraphTrainStep:
    """Compiles forward pass, backward pass and update into one job per batch shape, at the first batch of that shape.

    All jobs update the same parameters, moments and counters in place, so shapes may come in any order.
    """

    def __init__(self, model: PretrainedModel, optimizer: Optimizer, rates: np.ndarray, options: StepOptions) -> None:
        self.model, self.optimizer, self.options = model, optimizer, options
        self.scheduler = TableScheduler(optimizer, rates)
        self.jobs: dict[tuple, _TrainGraph] = {}
        self.tensors: dict[str, flow.Tensor] = {}  # tensors that all jobs share besides the model, by checkpoint name
        self.micro_batches, self.step = 0, 0
        self.finite, self.spikes = FiniteUpdates(), _spike_filter(options)
        if options.world.device != "cpu":
            flow.boxing.nccl.set_fusion_threshold_mbytes(options.nccl_fusion_threshold_mb)
            flow.boxing.nccl.set_fusion_max_ops_num(options.nccl_fusion_max_ops)

    def __call__(self, batch: Batch) -> Metrics:
        world, accumulation = self.options.world, self.options.micro_batches(batch)
        dropout.begin_step(self.options.seed, self.step, world.shape.data_parallel_rank)
        job = self._job(batch)
        scaled = normalized(batch, world)
        # The compiled job averages over micro-batches; eager mode sums them.
        scaled |= {name: array * accumulation for name, array in scaled.items() if name.endswith("_weights")}
        if job.sites and world.device == "cpu":
            drawn = [dropout.draw(job.sites, micro) for micro in range(accumulation)]
            scaled |= {f"{_MASK}{site}": np.concatenate(parts) for site, parts in enumerate(zip(*drawn, strict=True))}
        tensors = {name: world.as_global(tensor) for name, tensor in to_tensors(scaled, world.device).items()}
        if world.device != "cpu":
            tensors |= self._masks(job.sites, accumulation)
        fresh = not job.is_compiled
        if self.spikes:
            kernels.leave_out_updates_above(self.spikes.limit)
        outputs = job(**tensors)
        divided = 0.0
        if world.shape.ranks_per_replica > 1:
            divided = kernels.finish_divided_updates(world.sum_over_replica)
        if fresh:
            self.tensors = job.tensors()
        self.finite.add(*(outputs[name] for name in ("total_loss", _GRAD_NORM) if name in outputs))
        if self.spikes:
            outputs["total_loss"].numpy()  # the norm is available when the job has ended
            self.spikes.leaves_out(kernels.last_gradient_norm() or 0.0, self.step)
        self.step += 1

        def read() -> dict[str, float]:
            values = {name: float(np.mean(value.numpy())) for name, value in outputs.items()}
            norm = kernels.last_gradient_norm(divided) if self.options.max_grad_norm else None
            values |= {} if norm is None else {"grad_norm": norm}
            if "loss_scale" in self.tensors:
                values["loss_scale"] = float(self.tensors["loss_scale"].numpy())
            return values

        return read

    def first_bad_update(self) -> int | None:
        return self.finite.first_bad(self.step)

    def state(self) -> dict[str, np.ndarray]:
        flow._oneflow_internal.eager.Sync()
        tensors = {name: to_numpy(tensor) for name, tensor in self.tensors.items()}
        return tensors | (self.spikes.state() if self.spikes else {})

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        if self.spikes:
            self.spikes.load_state(state)
        state = {name: array for name, array in state.items() if name != spikes.STATE}
        # Mixed precision skips updates whose gradients overflow, so the job's count may be lower than the run's.
        state = {"updates": np.array([step], np.int64), **state}
        if not self.options.use_fp16:
            state = {name: array for name, array in state.items() if name not in _LOSS_SCALE}
        on_cpu = {"updates"} if self.options.world.shape.size == 1 else set()
        self.tensors = {n: self._placed(n, array, "cpu" if n in on_cpu else None) for n, array in state.items()}
        self.finite, self.step = FiniteUpdates(step), step

    def _masks(self, sites: list[dropout.Site], accumulation: int) -> dict[str, flow.Tensor]:
        """This step's dropout masks, drawn on CUDA."""
        world = self.options.world
        drawn = [dropout.draw_on_cuda(sites, micro, world.device) for micro in range(accumulation)]
        return {
            f"{_MASK}{site}": world.as_global(flow.cat(parts, dim=0))
            for site, parts in enumerate(zip(*drawn, strict=True))
        }

    def _job(self, batch: Batch) -> _TrainGraph:
        """The compiled job for a batch's shape."""
        accumulation = self.options.micro_batches(batch)
        if accumulation != self.micro_batches:  # it only grows, and each job has its own memory
            self.jobs, self.micro_batches = {}, accumulation
        shape = tuple((name, array.shape) for name, array in batch.items())
        if shape not in self.jobs:
            gc.collect()  # destroying an earlier job while this one compiles has corrupted the framework's memory
            part = {name: array[: len(array) // accumulation] for name, array in batch.items()}
            world = self.options.world
            sites = dropout_sites(self.model, part, world) if feeds_dropout(world) else []
            job = _TrainGraph(self.model, self.optimizer, self.scheduler, self.options, accumulation, sites)
            job.share(self.tensors)
            self.jobs[shape] = job
        return self.jobs[shape]

    def _placed(self, name: str, array: np.ndarray, device: str | None = None) -> flow.Tensor:
        world = self.options.world
        tensor = flow.tensor(array, device=device or world.device)
        if world.shape.size == 1:
            return tensor
        return place_parameter(
            tensor, name.removesuffix(".m").removesuffix(".v"), world.device, world.shape.ranks_per_replica
        )


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
        self.measures_norm = _can_measure_norm(options, micro_batches)
        self.sites = sites  # the dropout calls that get masks as inputs; empty if the job draws its own
        for parameter in model.parameters():
            parameter.grad = None  # an earlier job may have left its symbols there
        self.add_optimizer(optimizer, lr_sch=scheduler)
        if micro_batches > 1:
            self.config.set_gradient_accumulation_steps(micro_batches)
        if options.use_fp16:
            self.config.enable_amp(True)
            self.set_grad_scaler(flow.amp.GradScaler(init_scale=INITIAL_SCALE, growth_interval=GROWTH_INTERVAL))

    def build(self, **inputs: flow.Tensor) -> dict[str, flow.Tensor]:
        batch = {name: tensor for name, tensor in inputs.items() if not name.startswith(_MASK)}
        masks = [inputs[f"{_MASK}{site}"] for site in range(len(inputs) - len(batch))]
        with dropout.feed(masks) if masks else nullcontext():
            outputs = scalars(self.model(**batch, loss_reduction="sum"))
        outputs["total_loss"].backward()
        if self.measures_norm:
            outputs[_GRAD_NORM] = _norm(self.model.to(nn.Module).parameters())
        if self.clip_value:
            _clip_values(self.model.to(nn.Module).parameters(), self.clip_value)
        return outputs

    def tensors(self) -> dict[str, flow.Tensor]:
        """The moments and counters that the compiled job updates in place, by checkpoint name."""
        prefix, own = f"{self.MODEL}.", self.state_dict()
        found = {
            f"{name.removeprefix(prefix)[:-2]}.{name[-1]}": tensor
            for name, tensor in own.items()
            if name.startswith(prefix) and name.endswith(("-m", "-v"))
        }
        return found | {name: own[counter] for name, counter in self._counters().items() if counter in own}

    def share(self, tensors: Mapping[str, flow.Tensor]) -> None:
        """Makes the job update these tensors of another job or of a checkpoint; call it before compilation."""
        counters = self._counters()
        self.load_state_dict(
            {counters.get(name) or f"{self.MODEL}.{name[:-2]}-{name[-1]}": tensor for name, tensor in tensors.items()}
        )

    def _counters(self) -> dict[str, str]:
        """{checkpoint name: the job's own name} of each counter."""
        scaler = f"System-Train-DynamicLossScale-{self.name}"
        return {
            "updates": "System-Train-TrainStep",
            "loss_scale": f"{scaler}-LossScale",
            "good_steps": f"{scaler}-GoodStepCounter",
        }


def _spike_filter(options: StepOptions) -> spikes.SpikeFilter | None:
    return None if options.spike_factor is None else spikes.SpikeFilter(options.spike_factor)


_LOSS_SCALE = ("loss_scale", "good_steps")
_MASK = "dropout_mask_"
_GRAD_NORM = "grad_norm"


def feeds_dropout(world: World) -> bool:
    """Whether compiled dropout gets masks as inputs, because the framework's cannot be seeded."""
    return world.device != "cpu" or not kernels.is_loaded()


def dropout_sites(model: PretrainedModel, batch: Batch, world: World) -> list[dropout.Site]:
    """The dropout calls of the model for this rank's rows of a micro-batch."""
    tensors = {name: world.as_global(tensor) for name, tensor in to_tensors(batch, world.device).items()}
    with dropout.record() as sites, flow.no_grad():
        model(**tensors, loss_reduction="sum")
    ranks = world.shape.data_parallel_size
    return [dropout.Site((site.shape[0] // ranks, *site.shape[1:]), site.rate) for site in sites]


class EagerEvalStep:
    """Runs operation by operation."""

    def __init__(self, model: PretrainedModel, world: World, outputs: frozenset[str], use_fp16: bool) -> None:
        self.model, self.world, self.outputs, self.use_fp16 = model, world, outputs, use_fp16

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        with _evaluating(self.model), flow.no_grad(), half_precision(self.use_fp16):
            results = self.model(**to_tensors(batch, self.world.device), loss_reduction="sum")
        return {
            name: self.world.sum_over_batch(value.numpy())
            if value.dim() == 0
            else self.world.gather_rows(stored(value))
            for name, value in scalars(results, self.outputs).items()
        }


class GraphEvalStep:
    """Compiles one graph per batch shape, at the first batch of that shape."""

    def __init__(self, model: PretrainedModel, world: World, outputs: frozenset[str], use_fp16: bool) -> None:
        self.model, self.world, self.outputs, self.use_fp16 = model, world, outputs, use_fp16
        self.graphs: dict[tuple, _EvalGraph] = {}

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        tensors = {name: self.world.as_global(t) for name, t in to_tensors(batch, self.world.device).items()}
        shape = tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())
        with _evaluating(self.model):
            if shape not in self.graphs:
                self.graphs[shape] = _EvalGraph(self.model, self.outputs, self.use_fp16)
            results = self.graphs[shape](**tensors)
        return {name: np.array(value.numpy()) for name, value in results.items()}


class _EvalGraph(nn.Graph):
    def __init__(self, model: nn.Module, outputs: frozenset[str], use_fp16: bool) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs
        if use_fp16:
            self.config.enable_amp(True)

    def build(self, **batch: flow.Tensor) -> dict[str, flow.Tensor]:
        return scalars(self.model(**batch, loss_reduction="sum"), self.outputs)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switches the model to evaluation mode, and back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _part(tensor: flow.Tensor, number: int, parts: int) -> flow.Tensor:
    """Part `number` of `parts` equal parts of a tensor's first axis."""
    size = len(tensor) // parts
    return tensor[number * size : (number + 1) * size]


def _multiply_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad * factor


def _clip_values(parameters: Iterable[nn.Parameter], limit: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clamp(-limit, limit)


def _can_measure_norm(options: StepOptions, micro_batches: int) -> bool:
    """Whether a compiled job on CUDA can return its gradient norm; on a CPU, the kernels return it.

    A job cannot access the sum over its micro-batches, a sum over ranks would exchange the gradients twice, and in
    mixed precision OneFlow does not compile it.
    """
    alone = options.world.shape.size == 1 and micro_batches == 1
    return options.world.device != "cpu" and alone and not options.use_fp16


def _norm(parameters: Iterable[nn.Parameter]) -> flow.Tensor:
    """The L2 norm of all gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = [(gradient * gradient).sum() for gradient in gradients]
    return flow.sqrt(sum(squares[1:], squares[0]))


def _detached(outputs: Mapping[str, flow.Tensor]) -> dict[str, flow.Tensor]:
    return {name: value.detach() for name, value in outputs.items()}
