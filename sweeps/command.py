"""The training command of a sweep."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.classifier import ClassifierConfig
from configs.cli import flag_names, main_name, parse
from configs.embedding import EmbeddingConfig
from configs.glue import GlueConfig
from configs.pretraining import EagerPretrainingConfig, PretrainingConfig
from configs.squad import SquadConfig
from configs.tagging import TaggingConfig
from configs.training import RETIRED
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
Value = bool | int | float | str
# Flags that the sweep sets itself.
_OWN_FLAGS = {
    **dict.fromkeys(("output_dir", "resume", "overwrite_output_dir"), "sweep.py sets it for each trial"),
    **dict.fromkeys(("log_dir", "checkpoint_path"), "each trial writes to its own directory only"),
    **dict.fromkeys(("do_train", "phases"), "a trial is one training run"),
    "seeds": "use the flag --seeds of sweep.py",
}


@dataclass(frozen=True)
class Program:
    """A training command.

    Attributes:
        config: the class of its flags.
        metric: the metric that is compared by default.
        keeps_best: whether a run keeps the checkpoint with the best metric; otherwise it keeps the last one.
    """

    config: type[Any]
    metric: str
    keeps_best: bool


PROGRAMS = {
    "run_classifier.py": Program(ClassifierConfig, "eval_score", True),
    "run_glue.py": Program(GlueConfig, "eval_score", True),
    "run_ner.py": Program(TaggingConfig, "eval_score", True),
    "run_embedding.py": Program(EmbeddingConfig, "eval_score", True),
    "run_squad.py": Program(SquadConfig, "eval_f1", False),
    "run_pretraining.py": Program(PretrainingConfig, "eval_total_loss", False),
    "run_eager_pretraining.py": Program(EagerPretrainingConfig, "eval_total_loss", False),
}


@dataclass(frozen=True)
class Command:
    """A training command with the flags that all trials share.

    Attributes:
        script: a key of `PROGRAMS`.
        words: the flags as the user wrote them.
        config: the parsed flags.
    """

    script: str
    words: tuple[str, ...]
    config: Any

    @classmethod
    def parse(cls, text: str) -> Command:
        """Parses --command.

        Raises:
            UserError: it is not a training command of this project, or its own parser refuses its flags.
        """
        try:
            path, *words = shlex.split(text)
        except ValueError as error:
            raise UserError(f"--command cannot be split into words ({error}): check its quotes.") from None
        script = Path(path).name
        if script not in PROGRAMS:
            raise UserError(f"--command must begin with one of {', '.join(PROGRAMS)}, not {path}.")
        kind, own = PROGRAMS[script].config, set(_OWN_FLAGS) - {"do_train"}  # --do_train is harmless if it is True
        if "checkpoint" in words:  # --load_from checkpoint --checkpoint_path START
            own -= {"checkpoint_path"}
        for name in _flags_in(words, kind):
            if name in own:
                raise UserError(f"--command sets --{name}: remove it, because {_OWN_FLAGS[name]}.")
        try:
            config = parse(kind, words, retired=RETIRED)
        except UserError as error:
            raise UserError(f"--command {script}: {error}") from None
        if not config.run.do_train:
            raise UserError("--command sets --do_train False, but each trial trains: remove it.")
        return cls(script, tuple(words), config)

    @property
    def program(self) -> Program:
        """The training command."""
        return PROGRAMS[self.script]

    @property
    def flags(self) -> set[str]:
        """The main names of the flags that the user wrote."""
        return _flags_in(self.words, self.program.config)

    def searched(self, name: str, where: str) -> str:
        """The main name of a flag that the sweep searches.

        Args:
            name: one of the flag's names, with or without dashes.
            where: a prefix for messages.

        Raises:
            UserError: the command has no such flag, or it cannot be searched.
        """
        try:
            main = main_name(self.program.config, name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if main in _OWN_FLAGS:
            raise UserError(f"{where}: --{main} cannot be searched, because {_OWN_FLAGS[main]}.")
        if main == "seed":
            raise UserError(f"{where}: --seed cannot be searched: use --seeds to run each setting with several seeds.")
        if main in self.flags:
            raise UserError(f"{where}: --command also sets --{main}: remove it from one of the two.")
        return main

    def argv(self, flags: Mapping[str, Value], seed: int, directory: Path) -> list[str]:
        """The command line of a run."""
        trial = {**flags, "seed": seed, "output_dir": directory, "resume": True}
        words = [*self.words, *(f"--{name}={value}" for name, value in trial.items())]
        return [sys.executable, str(ROOT / self.script), *words]


def _flags_in(words: list[str] | tuple[str, ...], kind: type[Any]) -> set[str]:
    """The main names of the flags in a command line."""
    names = flag_names(kind)
    found = (word.removeprefix("--config.").lstrip("-").split("=")[0] for word in words if word.startswith("-"))
    return {names[name.replace("-", "_")] for name in found if name.replace("-", "_") in names}
