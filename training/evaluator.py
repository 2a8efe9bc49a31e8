"""Evaluates a model on whole record sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from data.reading.loader import Batch, RankSlice, Records, evaluation_batches, evaluation_order
from data.reading.packing import PACKED
from modeling.ops import MASKED_SCORE
from modeling.pretrained import PretrainedModel
from training.config import TrainingConfig
from training.distributed import World
from training.step import EvalStep, Mode, build_eval_step
from training.stopping import Interrupted, StopSignals
from training.terms import INPUTS, LossTerm, figures_of, select

Say = Callable[[str], None]  # prints one line of progress


@dataclass(frozen=True)
class Evaluator:
    """Runs a placed model over record sets, all ranks together, without gradients and dropout."""

    mode: Mode
    model: PretrainedModel
    world: World
    rows: int  # rows of one batch on one rank
    say_every: int  # batches between progress lines
    stop: StopSignals  # interrupts an evaluation while signals are collected
    use_fp16: bool = False  # only has an effect on CUDA
    _steps: dict[tuple[str, ...], EvalStep] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, mode: Mode, model: PretrainedModel, world: World, config: TrainingConfig, stop: StopSignals
    ) -> Evaluator:
        """Creates the evaluator from the flags."""
        rows = config.batch.val_rows(world.shape.data_parallel_size)
        return cls(mode, model, world, rows, config.run.val_print_every_n_iters, stop, config.device.use_fp16)

    def with_model(self, model: PretrainedModel) -> Evaluator:
        """The same evaluator for another placed model."""
        return replace(self, model=model, _steps={})

    def means(self, records: Records, terms: Sequence[LossTerm], features: Sequence[str], say: Say) -> dict[str, float]:
        """The metrics of these loss terms, averaged over all records, in the order of the model's outputs.

        Args:
            records: the set.
            terms: the metrics, and the weights that divide each.
            features: the record features that the model receives.
            say: prints progress.

        Raises:
            Interrupted: see `batches`.
        """
        return self.means_of((select(batch, features) for batch in self.batches(records, say)), terms)

    def means_of(self, batches: Iterable[Batch], terms: Sequence[LossTerm]) -> dict[str, float]:
        """The metrics of these loss terms, averaged over the batches of all ranks."""
        divisors = {figure.output: figure.weights for figure in figures_of(terms)}
        weights = sorted(set(divisors.values()))
        sums: dict[str, float] = {}
        totals = np.zeros(len(weights))
        for batch in batches:
            for name, value in self._step(())(batch).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            totals += [batch[name].sum(dtype=np.float64) for name in weights]
        by_name = dict(zip(weights, self.world.sum_over_batch(totals), strict=True))
        return {name: sums[name] / by_name[divisors[name]] for name in sums if name in divisors}

    def outputs(self, records: Records, names: Sequence[str], say: Say) -> dict[str, np.ndarray]:
        """The named outputs for all records, in their order: {name: [len(records), L]}, on every rank.

        Positions beyond the width of a record's batch have the score of a masked position.

        Raises:
            Interrupted: see `batches`.
        """
        order = evaluation_order(records)
        results: dict[str, np.ndarray] = {}
        done = 0
        for batch in self.batches(records, say):
            outputs = self._step(tuple(names))({name: batch[name] for name in (*INPUTS, *PACKED) if name in batch})
            rows = len(batch["input_ids"]) * self.world.shape.data_parallel_size
            numbers = order[done : done + rows]
            done += rows
            for name in names:
                values = outputs[name][: len(numbers)]
                if name not in results:  # the first batch is the widest
                    results[name] = np.full((len(records), values.shape[1]), MASKED_SCORE, values.dtype)
                results[name][numbers, : values.shape[1]] = values
        return results

    def batches(self, records: Records, say: Say) -> Iterator[Batch]:
        """Yields this rank's rows of all records in batches, and prints progress.

        Raises:
            Interrupted: a signal requests that training stops.
        """
        shape = self.world.shape
        rows = self.rows * shape.data_parallel_size
        share = RankSlice(shape.data_parallel_rank, shape.data_parallel_size)
        for number, batch in enumerate(evaluation_batches(records, rows=rows, rank_slice=share), 1):
            if self.stop.active and self.stop.requested():
                raise Interrupted
            yield batch
            if number % self.say_every == 0:
                say(f"evaluation: batch {number} of {-(-len(records) // rows)}")

    def _step(self, outputs: tuple[str, ...]) -> EvalStep:
        if outputs not in self._steps:
            self._steps[outputs] = build_eval_step(self.mode, self.model, self.world, outputs, self.use_fp16)
        return self._steps[outputs]
