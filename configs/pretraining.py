"""Flags of run_pretraining.py and run_eager_pretraining.py."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from configs.checks import MOST_STEPS, MOST_TOKENS, above, at_least, at_most
from configs.cli import flag, flag_names, job_flags, parse, section, with_flags
from configs.distillation import DistillationFlags
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
        "training data: directories that `prepare_data.py pretraining` wrote, single shards or files of JSON lines; "
        "several are mixed",
        aliases=("train_file",),
    )
    val_ofrecord_path: tuple[str, ...] = flag(
        (), "evaluation data, in the same forms as --ofrecord_path", aliases=("validation_file",)
    )
    val_fraction: float = flag(0.0, "without --val_ofrecord_path: fraction of the training records to hold out")
    train_data_part: int | None = flag(None, "number of training shards to use", default_text="all", unit="shards")
    train_dataset_size: int | None = flag(None, "records of one epoch", default_text="all", unit="records")
    seq_length: int | None = flag(
        None, "length of a record", default_text="the data's", aliases=("max_seq_length",), unit="tokens"
    )
    max_predictions_per_seq: int | None = flag(
        None,
        "maximum number of masked tokens in a record",
        default_text="the data's, or 20 with --masking dynamic",
        unit="tokens",
    )
    objective: str | None = flag(
        None,
        "second task in addition to masked-LM: next sentence, sentence order or none; or rtd, replaced-token detection "
        "(ELECTRA), on any records",
        default_text="the data's",
        choices=("nsp", "sop", "none", "rtd"),
    )
    rtd_weight: float = flag(50.0, "with --objective rtd: weight of the detection's loss; masked-LM has weight 1")
    generator_width: float = flag(
        0.25, "with --objective rtd: width of the generator's layers, relative to those of the discriminator"
    )
    skip_nsp: bool = flag(False, "exclude the second task from the loss", aliases=("skip_sop",))
    skip_mlm: bool = flag(False, "exclude masked-LM from the loss")
    masking: str | None = flag(
        None,
        "use the masks in the data, or draw new masks each time a record is read",
        default_text="the data's",
        choices=("static", "dynamic"),
    )
    masked_lm_prob: float = flag(0.15, "with --masking dynamic: fraction of the tokens to mask")
    do_whole_word_mask: bool = flag(False, "with --masking dynamic: mask all pieces of a word together")
    masking_chunks: str = flag(
        "word",
        "with --masking dynamic: mask single words (or pieces), n-grams of one to three words (ALBERT), or spans of up "
        "to ten words that are replaced as a whole (SpanBERT)",
        choices=("word", "ngram", "span"),
    )
    span_boundary_objective: bool = flag(
        False,
        "also predict each masked token from the tokens before and after its masked span and its place in the span "
        "(SpanBERT)",
    )
    masked_lm_prob_end: float | None = flag(
        None,
        "with --masking dynamic: the fraction of the tokens to mask at the end of the run, which is reached linearly "
        "from --masked_lm_prob; evaluation keeps --masked_lm_prob",
        default_text="--masked_lm_prob",
    )
    eval_only_mlm: bool = flag(False, "evaluate masked-LM only: loss, accuracy, perplexity")
    max_train_samples: int | None = flag(None, "train on this many records at most", default_text="all", unit="records")
    max_val_samples: int | None = flag(
        None, "evaluate on this many records at most", default_text="all", aliases=("max_eval_samples",), unit="records"
    )
    vocab_file: str | None = flag(
        None, "vocabulary to save with the model", default_text="the data's", aliases=("tokenizer",)
    )
    do_lower_case: bool | None = flag(
        None, "whether the vocabulary is uncased", default_text="as the data says, else True"
    )
    train_accuracy_every_n_iters: int = flag(
        0,
        "steps between measurements of masked-LM accuracy in training, on the first micro-batch of an update, without "
        "dropout; 0 disables it",
        unit="steps",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val_fraction must be at least 0 and below 1, not {self.val_fraction}.")
        if self.skip_nsp and self.skip_mlm:
            raise UserError("--skip_nsp and --skip_mlm together leave nothing to train: remove one of them.")
        if not 0 < self.masked_lm_prob < 1:
            raise UserError(f"--masked_lm_prob must be above 0 and below 1, not {self.masked_lm_prob}.")
        if self.masked_lm_prob_end is not None and not 0 < self.masked_lm_prob_end < 1:
            raise UserError(f"--masked_lm_prob_end must be above 0 and below 1, not {self.masked_lm_prob_end}.")
        at_least(self, 0, "rtd_weight")
        above(self, 0, "generator_width")
        if self.generator_width > 1:
            raise UserError(
                f"--generator_width must be at most 1, not {self.generator_width}: the generator would be wider than "
                "the discriminator, and too good for it."
            )
        if self.objective == "rtd" and self.skip_mlm:
            raise UserError("--skip_mlm leaves --objective rtd without a generator: omit one of them.")
        if self.span_boundary_objective and (self.skip_mlm or self.objective == "rtd"):
            other = "--skip_mlm" if self.skip_mlm else "--objective rtd"
            raise UserError(
                f"--span_boundary_objective needs the labels of masked-LM, so it cannot be combined with {other}: omit "
                "one of them."
            )
        at_least(self, 1, "train_data_part", "train_dataset_size", "seq_length", "max_predictions_per_seq")
        at_least(self, 1, "max_train_samples", "max_val_samples")
        at_least(self, 0, "train_accuracy_every_n_iters")
        at_most(self, MOST_STEPS, "train_accuracy_every_n_iters")
        at_most(self, MOST_TOKENS, "seq_length", "max_predictions_per_seq")


@dataclass(frozen=True)
class ProbeFlags:
    """Probes of checkpoints, in separate processes that do not affect training."""

    squad_frequency: int = flag(
        0, "fine-tune a copy on SQuAD every this many steps, and at the end; 0 disables it", unit="steps"
    )
    squad_config: str | None = flag(
        None,
        "with --squad_frequency: JSON file with flags of run_squad.py, such as train_file and predict_file",
        metavar="FILE",
    )
    cloze_file: str | None = flag(
        None,
        "sentences, one per line, each with a [MASK], that every checkpoint fills in; the answers go to the log and "
        "clozes.txt",
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "squad_frequency")
        at_most(self, MOST_STEPS, "squad_frequency")
        if self.squad_frequency and not self.squad_config:
            raise UserError("--squad_frequency needs --squad_config: a JSON file with train_file and predict_file.")

    def squad(self) -> SquadConfig:
        """run_squad.py's configuration.

        Raises:
            UserError: the file is not a valid configuration, or names files that do not exist.
        """
        config = parse(SquadConfig, ["--config", self.squad_config or "", "--do_train", "--do_eval"], retired=RETIRED)
        for path in (config.data.train_file, config.data.predict_file):
            if path and not Path(path).is_file():
                raise UserError(f"--squad_config {self.squad_config}: {path} does not exist.")
        return config


# Flags that all phases share.
_OF_THE_WHOLE_RUN = {
    *("output_dir", "checkpoint_path", "log_dir", "load_from", "init_checkpoint", "resume", "overwrite_output_dir"),
    *("do_train", "phases"),
    *(field.name for field in fields(DeviceFlags)),
}


@dataclass(frozen=True)
class PretrainingConfig:
    """The flags of a pretraining run."""

    data: PretrainingDataFlags = section(PretrainingDataFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags)
    optimizer: OptimizerFlags = section(OptimizerFlags)
    run: RunFlags = section(RunFlags)
    distillation: DistillationFlags = section(DistillationFlags)
    device: DeviceFlags = section(DeviceFlags)
    probes: ProbeFlags = section(ProbeFlags)
    phases: str | None = flag(
        None,
        "train in phases: JSON file with a list of objects of flags, one per phase, which override the command line; "
        "each phase starts from the weights of the phase before and writes to OUTPUT_DIR/phase1, phase2, …",
        metavar="FILE",
    )

    most_used: ClassVar[tuple[str, ...]] = (
        *("ofrecord_path", "val_ofrecord_path", "output_dir", "model_size", "init_checkpoint", "train_batch_size"),
        *("grad_acc_steps", "lr", "max_steps", "epochs", "use_fp16", "seed", "resume"),
    )

    def __post_init__(self) -> None:
        if self.data.masked_lm_prob_end is not None and self.batch.packing == "best_fit":
            raise UserError(
                "--masked_lm_prob_end depends on the number of records read so far, which is unknown with --packing "
                "best_fit: omit one of them."
            )
        if self.data.masked_lm_prob_end is not None and self.run.train_hours:
            raise UserError(
                "--masked_lm_prob_end needs a run whose number of records is known: replace --train_hours with "
                "--max_steps or --epochs."
            )
        if self.phases and not self.run.do_train:
            raise UserError(
                "--phases cannot be combined with --do_train False: to evaluate, remove --phases and set "
                "--output_dir to OUTPUT_DIR/phaseN."
            )
        if self.phases and self.run.checkpoint_path and not self.run.load_from:
            raise UserError("--phases writes its checkpoints below --output_dir: remove --checkpoint_path.")

    def in_phases(self) -> list[PretrainingConfig]:
        """A configuration for each phase, or only this one without --phases.

        Raises:
            UserError: the --phases file is not a list of objects, or sets a flag that applies to the whole run.
        """
        if self.phases is None:
            return [self]
        content = read_json(self.phases, "--phases ")
        if not isinstance(content, list) or not content or not all(isinstance(phase, dict) for phase in content):
            raise UserError(f"--phases {self.phases} must contain a JSON list of objects, one for each phase.")
        return [self._phase(number, phase) for number, phase in enumerate(content, 1)]

    def job_flags(self) -> dict[str, Any]:
        """The flags that must be equal on all ranks of a job, including the content of --phases.

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
                raise UserError(f"{where}: {name} applies to the whole run: set it on the command line.")
        run = self.run.below(f"phase{number}")
        if number > 1:  # the phase's own load_optimizer_state may load the optimizer too
            before = str(phase_directory(self.run.output_dir, number - 1))
            run = replace(run, load_from="checkpoint", checkpoint_path=before, load_optimizer_state=False)
        return with_flags(replace(self, run=run, phases=None), content, where, RETIRED)


@dataclass(frozen=True)
class EagerPretrainingConfig(PretrainingConfig):
    """The flags of run_eager_pretraining.py, with a different default output directory."""

    run: RunFlags = section(RunFlags, default_output_dir="output_eager")
