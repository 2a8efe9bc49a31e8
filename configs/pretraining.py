"""All flags of run_pretraining.py and run_eager_pretraining.py."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from configs.checks import at_least
from configs.cli import flag, flag_names, job_flags, parse, section, with_flags
from configs.model import ModelFlags
from configs.squad import SquadConfig
from configs.training import RETIRED, BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.checkpoints import phase_directory
from utils.errors import UserError
from utils.json_file import read_json


@dataclass(frozen=True)
class PretrainingDataFlags:
    """Data."""

    ofrecord_path: tuple[str, ...] = flag(
        (),
        "what to train on, several are mixed: directories that `prepare_data.py pretraining` wrote, single shards, "
        "files of JSON lines",
        aliases=("train_file",),
    )
    val_ofrecord_path: tuple[str, ...] = flag((), "what to evaluate on, likewise", aliases=("validation_file",))
    val_fraction: float = flag(0.0, "without evaluation shards: the share of the training shards to hold out")
    train_data_part: int | None = flag(None, "use this many shards (default: all)", unit="shards")
    train_dataset_size: int | None = flag(None, "records of one epoch (default: all)", unit="records")
    seq_length: int | None = flag(None, "tokens of a record (default: the data's)", aliases=("max_seq_length",))
    max_predictions_per_seq: int | None = flag(
        None, "masked tokens of a record, at most (default: the data's, or 20 where masks are drawn anew)"
    )
    objective: str | None = flag(
        None,
        "the task beside masked-LM: next sentence, sentence order or none (default: the data's)",
        choices=("nsp", "sop", "none"),
    )
    skip_nsp: bool = flag(False, "leave the second task out of the loss", aliases=("skip_sop",))
    skip_mlm: bool = flag(False, "leave masked-LM out of the loss")
    masking: str | None = flag(
        None,
        "the data's own masks, or masks drawn anew each time a record is read (default: the data's way)",
        choices=("static", "dynamic"),
    )
    masked_lm_prob: float = flag(0.15, "masking dynamic: share of the tokens that are masked")
    do_whole_word_mask: bool = flag(False, "masking dynamic: mask all pieces of a word together")
    eval_only_mlm: bool = flag(False, "evaluate masked-LM alone: loss, accuracy, perplexity")
    max_train_samples: int | None = flag(None, "train on the first so many records (default: all)", unit="records")
    max_val_samples: int | None = flag(
        None, "evaluate on the first so many records (default: all)", aliases=("max_eval_samples",), unit="records"
    )
    vocab_file: str | None = flag(
        None, "the vocabulary to save with the model (default: the data's)", aliases=("tokenizer",)
    )
    do_lower_case: bool | None = flag(None, "whether the vocabulary is uncased (default: the data's, else True)")

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val_fraction must be at least 0 and below 1, not {self.val_fraction}.")
        if self.skip_nsp and self.skip_mlm:
            raise UserError("--skip_nsp and --skip_mlm leave nothing to learn: drop one of them.")
        if not 0 < self.masked_lm_prob < 1:
            raise UserError(f"--masked_lm_prob must be above 0 and below 1, not {self.masked_lm_prob}.")
        at_least(self, 1, "train_data_part", "train_dataset_size", "seq_length", "max_predictions_per_seq")
        at_least(self, 1, "max_train_samples", "max_val_samples")


@dataclass(frozen=True)
class ProbeFlags:
    """What else is found out about checkpoints, in processes of their own that leave the training as it is."""

    squad_frequency: int = flag(
        0, "steps between fine-tunings of a clone on SQuAD, which are made at the end too; 0: none", unit="steps"
    )
    squad_config: str | None = flag(
        None, "with --squad_frequency: a JSON object of run_squad.py's flags, such as train_file and predict_file"
    )
    cloze_file: str | None = flag(
        None, "fill in these sentences, one a line, each with a [MASK], at every checkpoint: in the log and clozes.txt"
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "squad_frequency")
        if self.squad_frequency and not self.squad_config:
            raise UserError("--squad_frequency needs --squad_config: a JSON file with train_file and predict_file.")

    def squad(self) -> SquadConfig:
        """run_squad.py's configuration.

        Raises:
            UserError: it is none, or names files that do not exist.
        """
        config = parse(SquadConfig, ["--config", self.squad_config or "", "--do_train", "--do_eval"], retired=RETIRED)
        for path in (config.data.train_file, config.data.predict_file):
            if path and not Path(path).is_file():
                raise UserError(f"--squad_config {self.squad_config}: {path} does not exist.")
        return config


# Phases share these.
_OF_THE_WHOLE_RUN = {
    *("output_dir", "checkpoint_path", "log_dir", "load_from", "init_checkpoint", "resume", "overwrite_output_dir"),
    *("do_train", "phases"),
    *(field.name for field in fields(DeviceFlags)),
}


@dataclass(frozen=True)
class PretrainingConfig:
    """Everything that a pretraining run is made of."""

    data: PretrainingDataFlags = section(PretrainingDataFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags)
    optimizer: OptimizerFlags = section(OptimizerFlags)
    run: RunFlags = section(RunFlags)
    device: DeviceFlags = section(DeviceFlags)
    probes: ProbeFlags = section(ProbeFlags)
    phases: str | None = flag(
        None,
        "train in phases: a JSON list of objects of flags, which win over the command line's; each phase starts from "
        "the weights of the one before it and lives in OUTPUT_DIR/phase1, phase2, …",
    )

    def __post_init__(self) -> None:
        if self.phases and not self.run.do_train:
            raise UserError("--phases trains: leave it out with --do_train False, and evaluate OUTPUT_DIR/phaseN.")
        if self.phases and self.run.checkpoint_path and not self.run.load_from:
            raise UserError("--phases saves under --output_dir: leave --checkpoint_path out.")

    def in_phases(self) -> list[PretrainingConfig]:
        """A configuration for each phase, or this one alone where there are none.

        Raises:
            UserError: --phases names no list of objects of flags, or one of them holds what belongs to the whole run.
        """
        if self.phases is None:
            return [self]
        content = read_json(self.phases, "--phases ")
        if not isinstance(content, list) or not content or not all(isinstance(phase, dict) for phase in content):
            raise UserError(f"--phases {self.phases} must hold a JSON list of objects, one for each phase.")
        return [self._phase(number, phase) for number, phase in enumerate(content, 1)]

    def job_flags(self) -> dict[str, Any]:
        """What all processes of a job must have been given alike, the content of --phases too.

        Raises:
            UserError: as `in_phases`.
        """
        flags, phases = job_flags(self), self.in_phases() if self.phases else []
        others = {"phases": len(phases)} | {
            f"phases[{number}].{name}": value
            for number, phase in enumerate(phases, 1)
            for name, value in job_flags(phase).items()
            if value != flags[name]
        }
        return flags | others

    def _phase(self, number: int, content: dict[str, Any]) -> PretrainingConfig:
        where, names = f"--phases {self.phases}, phase {number}", flag_names(type(self))
        for name in content:
            if names.get(name.lstrip("-").replace("-", "_")) in _OF_THE_WHOLE_RUN:
                raise UserError(f"{where}: {name} belongs to the whole run: give it on the command line.")
        run = self.run.below(f"phase{number}")
        if number > 1:  # its own load_optimizer_state may take the optimizer along
            before = str(phase_directory(self.run.output_dir, number - 1))
            run = replace(run, load_from="checkpoint", checkpoint_path=before, load_optimizer_state=False)
        return with_flags(replace(self, run=run, phases=None), content, where, RETIRED)
