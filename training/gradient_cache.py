"""Training step for losses that compare all rows of an update (GradCache, Gao et al. 2021).

A forward and backward pass only needs the memory of one micro-batch, although its rows are compared with all rows of
the update. An update first embeds all micro-batches without gradients and computes the loss of all embeddings with its
gradient for each. Then it performs the ordinary step with these gradients. Both passes draw the same dropout masks.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import oneflow as flow

from data.reading.loader import Batch
from modeling import dropout
from modeling.distillation import Distilled
from modeling.embedding import BertForEmbedding
from modeling.precision import half_precision
from modeling.pretrained import PretrainedModel
from training.step import Metrics, Mode, StepOptions, TrainStep, dropout_sites, feeds_dropout, to_tensors
from training.terms import EXAMPLE_WEIGHTS, INPUTS, TOTAL_LOSS


def comparing_rows(step: TrainStep, mode: Mode, model: PretrainedModel, options: StepOptions) -> TrainStep:
    """Wraps the step in a `GradientCache` if the model's loss compares rows and an update has several parts."""
    return GradientCache(step, mode, model, options) if isinstance(model, BertForEmbedding) else step


@dataclass
class GradientCache:
    """A step whose loss covers all micro-batches and ranks of an update."""

    step: TrainStep
    mode: Mode
    model: BertForEmbedding
    options: StepOptions
    updates: int = 0

    def __call__(self, batch: Batch) -> Metrics:
        number, world = self.updates, self.options.world
        self.updates += 1
        if self.options.micro_batches(batch) == 1 and world.shape.data_parallel_size == 1:
            return self.step(batch)
        dropout.begin_step(self.options.seed, number, world.shape.data_parallel_rank)
        loss, gradients = self._loss(batch, self._embed(batch))
        names = {*INPUTS, EXAMPLE_WEIGHTS}
        inputs = {name: array for name, array in batch.items() if name in names}
        outputs = self.step({**inputs, "embedding_gradients": gradients})
        return lambda: self._with_loss(outputs(), loss)

    def first_bad_update(self) -> int | None:
        return self.step.first_bad_update()

    def state(self) -> dict[str, np.ndarray]:
        return self.step.state()

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        self.step.load_state(state, step)
        self.updates = step

    def _with_loss(self, outputs: dict[str, float], loss: float) -> dict[str, float]:
        """The outputs of a step, with the loss of all rows in place of the sum with its gradients."""
        lesson = self.model.lesson if isinstance(self.model, Distilled) else None
        if lesson is None:
            return {**outputs, TOTAL_LOSS: loss}
        others = outputs[TOTAL_LOSS] - (1 - lesson.weight) * outputs["label_loss"]
        return {**outputs, "label_loss": loss, TOTAL_LOSS: others + (1 - lesson.weight) * loss}

    def _embed(self, batch: Batch) -> flow.Tensor:
        """The embeddings of this rank's rows, [rows, T*H], without gradients."""
        count = self.options.micro_batches(batch)
        rows = len(batch["input_ids"]) // count
        embeddings = []
        with flow.no_grad():
            for micro in range(count):
                part = {name: batch[name][micro * rows : (micro + 1) * rows] for name in INPUTS}
                vectors = self._forward(part, micro)
                embeddings.append(vectors.to_local() if vectors.is_global else vectors)
        return flow.cat(embeddings, dim=0)

    def _forward(self, part: Batch, micro: int) -> flow.Tensor:
        world = self.options.world
        tensors = to_tensors(part, world.device)
        if self.mode == "graph":
            tensors = {name: world.as_global(tensor) for name, tensor in tensors.items()}
        masks = []
        if self.mode == "graph" and feeds_dropout(world):
            sites = dropout_sites(self.model, part, world)
            if world.device == "cpu":
                drawn = [flow.tensor(mask) for mask in dropout.draw(sites, micro)]
            else:
                drawn = dropout.draw_on_cuda(sites, micro, world.device)
            masks = [world.as_global(mask) for mask in drawn]
        with dropout.feed(masks) if masks else nullcontext(), half_precision(self.options.use_fp16):
            return self.model(**tensors)["embeddings"]

    def _loss(self, batch: Batch, own: flow.Tensor) -> tuple[float, np.ndarray]:
        """The mean loss of all ranks' rows, and the gradient of its sum for this rank's embeddings [rows, T*H]."""
        world, device = self.options.world, self.options.world.device
        gathered = {
            name: world.gather_rows(flow.from_numpy(np.ascontiguousarray(batch[name])).to(device))
            for name in ("scores", EXAMPLE_WEIGHTS)
            if name in batch
        }
        tensors = to_tensors(gathered, device)
        embeddings = flow.tensor(world.gather_rows(own), device=device, requires_grad=True)
        weights = tensors[EXAMPLE_WEIGHTS]
        items = self.model.losses(embeddings, batch["input_ids"].shape[1], tensors.get("scores"), weights)
        total = (items * weights).sum()
        total.backward()
        rows, rank = len(batch["input_ids"]), world.shape.data_parallel_rank
        gradients = np.array(embeddings.grad.numpy()[rank * rows : (rank + 1) * rows], copy=True)
        return float(total.numpy()) / max(float(gathered[EXAMPLE_WEIGHTS].sum()), 1e-12), gradients
