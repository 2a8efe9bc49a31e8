"""The checkpoints of a run: when they are saved, what goes into them, and the probes that look at them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.training import RunFlags
from conversion.tokenizer_files import Vocabulary
from modeling.pretrained import PretrainedModel
from training.checkpoint import save_checkpoint
from training.distributed import World
from training.journal import Journal
from training.plan import UpdatePlan
from training.probes import Probes
from training.step import TrainStep
from utils.checkpoints import newest_checkpoint


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
    saved_step: int | None = None  # the last checkpoint's number of updates; None: there is none

    @property
    def _tokenizer_files(self) -> dict[str, bytes]:
        longest = self.model.config.max_position_embeddings
        return self.vocabulary.files(longest) if self.vocabulary else {}

    def due(self, done: int) -> bool:
        """Whether a checkpoint is wanted after this many updates."""
        if done in self.flags.save_at_steps:
            return True
        regular = done % self.flags.model_save_every_n_iter == 0 or (self.probes is not None and self.probes.due(done))
        return done > 0 and regular

    def save(self, done: int) -> None:
        """Saves the checkpoint after this many updates, and removes old ones."""
        arrays, moments = self.model.to_arrays(), self.step.state()  # on all ranks, because tensors may be global
        if self.world.shape.is_first:
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
            self.journal.say(f"saved {saved}")
        self.saved_step = done

    def probe(self, done: int, last: bool = False) -> None:
        """Lets the probes look at the newest checkpoint after this many updates, the `last` ones or not."""
        checkpoint = newest_checkpoint(self.directory)
        if self.world.shape.is_first and self.probes and checkpoint:
            self.probes(checkpoint, done, last, self.journal)
        self.world.barrier()  # the other ranks wait, whether or not there is anything to look at
