"""Decides when checkpoints are saved, collects their content, and runs the probes on them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from configs.training import RunFlags
from conversion.tokenizer_files import Vocabulary
from modeling.pretrained import PretrainedModel
from training.checkpoint import point_latest_at, save_checkpoint
from training.distributed import World
from training.finiteness import NotFiniteError, diverged
from training.journal import Journal
from training.plan import UpdatePlan
from training.probes import Probes
from training.step import TrainStep
from training.terms import TOTAL_LOSS
from utils.checkpoints import checkpoint_step, checkpoints, newest_checkpoint
from utils.errors import UserError
from utils.file_lock import check_still_there


@dataclass
class Checkpointer:
    """Saves checkpoints of one run; all ranks must call its methods together."""

    directory: Path
    model: PretrainedModel
    step: TrainStep
    plan: UpdatePlan
    vocabulary: Vocabulary | None
    probes: Probes | None
    flags: RunFlags
    journal: Journal
    world: World
    saved_step: int | None = None  # the number of updates before the last checkpoint; None if there is none

    @property
    def _tokenizer_files(self) -> dict[str, bytes]:
        longest = self.model.config.max_position_embeddings
        return self.vocabulary.files(longest) if self.vocabulary else {}

    def due(self, done: int) -> bool:
        """Whether a checkpoint is due after this many updates."""
        if done in self.flags.save_at_steps:
            return True
        regular = done % self.flags.model_save_every_n_iter == 0 or (self.probes is not None and self.probes.due(done))
        return done > 0 and regular

    def check_finite(self, done: int) -> None:
        """Raises UserError if the loss or the gradient norm of any update so far is NaN or infinite on any rank."""
        bad = self.step.first_bad_update()
        first = int(self.world.least(done if bad is None else bad))
        if first < done:
            raise self._diverged(f"{TOTAL_LOSS} or the gradient norm is NaN or infinite at step {first}", first)

    def save(self, done: int) -> None:
        """Saves the checkpoint after this many updates, and removes old ones.

        Raises:
            UserError: the weights or the optimizer's state are not finite, or the directory was deleted.
        """
        with self.plan.budget.measuring("save") if self.plan.budget else nullcontext():
            self._save(done)

    def _save(self, done: int) -> None:
        check_still_there(self.directory)
        arrays, moments = self.model.to_arrays(), self.step.state()  # on all ranks, because tensors may be global
        if self.world.shape.is_first:
            try:
                saved = save_checkpoint(
                    self.directory,
                    self.model,
                    arrays,
                    moments,
                    self.plan.state_after(done),
                    tokenizer=self._tokenizer_files,
                    keep_last=self.flags.keep_last,
                    kept_steps=self.flags.save_at_steps,
                )
            except NotFiniteError as error:
                raise self._diverged(error, done) from None
            self.journal.say(f"saved {saved}")
        self.saved_step = done

    def _diverged(self, problem: object, first_bad: int) -> UserError:
        """The error with the last good checkpoint, from which --resume will continue.

        The checkpoint after N updates is good if update N, computed with its weights, was finite.
        """
        good = [path for path in checkpoints(self.directory) if checkpoint_step(path) < first_bad]
        if good and self.world.shape.is_first and newest_checkpoint(self.directory) != good[-1]:
            point_latest_at(good[-1])
        return diverged(problem, good[-1] if good else None)

    def probe(self, done: int, last: bool = False) -> None:
        """Runs the probes on the newest checkpoint after this many updates; `last` is True at the end of the run."""
        checkpoint = newest_checkpoint(self.directory)
        if self.world.shape.is_first and self.probes and checkpoint:
            self.probes(checkpoint, done, last, self.journal)
        self.world.barrier()  # the other ranks always wait, even if no probe runs
