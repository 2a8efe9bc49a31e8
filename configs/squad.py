"""Flags of `prepare_data.py squad` and `run_squad.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from configs.checks import MOST_TOKENS, at_least, at_most, given, local, threads
from configs.cli import flag, section
from configs.distillation import DistillationFlags
from configs.model import ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.errors import UserError


@dataclass(frozen=True)
class FeatureFlags:
    """Tokens and windows."""

    vocab_file: str | None = flag(None, "vocabulary, one token per line, or a model directory", metavar="FILE")
    do_lower_case: bool | None = flag(
        None, "lower-case the text and strip accents", default_text="as the tokenizer files or the entries say"
    )
    max_seq_length: int = flag(
        384, "maximum length of question and window together", aliases=("seq_length",), unit="tokens"
    )
    doc_stride: int = flag(128, "distance from the start of one window to the next", unit="tokens")
    max_query_length: int = flag(64, "longer questions are truncated", unit="tokens")
    version_2_with_negative: bool = flag(False, "SQuAD 2.0: some questions have no answer")
    squad_version: str | None = flag(
        None,
        "alias: squadv2 means --version_2_with_negative True",
        default_text="by --version_2_with_negative",
        choices=("squadv1", "squadv2"),
    )

    def __post_init__(self) -> None:
        if self.squad_version == "squadv1" and self.version_2_with_negative:
            raise UserError("--squad_version squadv1 contradicts --version_2_with_negative True: remove one.")
        if self.squad_version == "squadv2":
            object.__setattr__(self, "version_2_with_negative", True)
        at_least(self, 1, "max_query_length", "doc_stride")
        at_most(self, MOST_TOKENS, "max_seq_length", "max_query_length", "doc_stride")
        if self.max_seq_length <= self.max_query_length + 3:
            raise UserError(
                f"--max_seq_length {self.max_seq_length} leaves no space for the context: it must be above "
                f"--max_query_length {self.max_query_length} + 3 ([CLS] and two [SEP])."
            )


@dataclass(frozen=True)
class DecodingFlags:
    """Decoding of answers."""

    n_best_size: int = flag(
        20, "answers per question in nbest_predictions.json; also the number of starts and ends tried in each window"
    )
    max_answer_length: int = flag(30, "longest answer", unit="tokens")
    null_score_diff_threshold: float = flag(
        0.0, "SQuAD 2.0: predict no answer if the null score exceeds the best answer's score by more than this"
    )
    verbose_logging: bool = flag(False, "print answers that could not be aligned with the original text")

    def __post_init__(self) -> None:
        at_least(self, 1, "n_best_size", "max_answer_length")
        at_most(self, MOST_TOKENS, "n_best_size", "max_answer_length")


@dataclass(frozen=True)
class SquadDataConfig:
    """`prepare_data.py squad`."""

    input_file: str = flag("", "SQuAD JSON file, version 1.1 or 2.0")
    output_dir: str = flag("", "directory for the shards and dataset.json")
    is_training: bool = flag(False, "write answer positions, for training, instead of unique ids, for evaluation")
    features: FeatureFlags = section(FeatureFlags)
    num_shards: int = flag(1, "number of part files")
    num_workers: int | None = flag(None, "number of processes", default_text="one per core")
    overwrite_output_dir: bool = flag(False, "delete the files of another preparation in --output_dir")

    def __post_init__(self) -> None:
        given(self, "input_file", "output_dir")
        if not self.features.vocab_file:
            raise UserError("--vocab_file is missing: pass the vocab.txt of the model that you will fine-tune.")
        local(self, "output_dir")
        at_least(self, 1, "num_shards")
        at_most(self, 10**5, "num_shards")
        threads(self, "num_workers")


@dataclass(frozen=True)
class SquadDataFlags:
    """Data."""

    train_file: str | None = flag(None, "SQuAD JSON file to train on; its features are computed once and stored")
    train_data_dir: str | None = flag(None, "directory of features to train on instead of --train_file")
    train_example_num: int | None = flag(None, "features of one epoch", default_text="all", unit="features")
    train_data_part_num: int | None = flag(None, "number of training shards to use", default_text="all", unit="shards")
    predict_file: str | None = flag(None, "SQuAD JSON file with the questions to answer")
    eval_data_dir: str | None = flag(None, "directory of the features of --predict_file, if they exist already")
    eval_example_num: int | None = flag(
        None, "expected number of features", default_text="the number found", unit="features"
    )
    eval_data_part_num: int | None = flag(None, "number of evaluation shards to use", default_text="all", unit="shards")

    def __post_init__(self) -> None:
        at_least(self, 1, "train_example_num", "train_data_part_num", "eval_example_num", "eval_data_part_num")


@dataclass(frozen=True)
class SquadConfig:
    """The flags of run_squad.py."""

    data: SquadDataFlags = section(SquadDataFlags)
    features: FeatureFlags = section(FeatureFlags)
    decoding: DecodingFlags = section(DecodingFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(
        BatchFlags, aliases={"train_batch_size": ("batch_size",)}, default_train_rows=32, default_val_rows=64
    )
    optimizer: OptimizerFlags = section(OptimizerFlags, lr=3e-5)
    run: RunFlags = section(
        RunFlags,
        output_dir="squad_output",
        epochs=3,
        do_train=False,
        do_eval=False,
        default_load_optimizer_state=False,
    )
    distillation: DistillationFlags = section(DistillationFlags)
    device: DeviceFlags = section(DeviceFlags)
    do_predict: bool = flag(False, "write the answers without scoring them")
    mode: str = flag("graph", "compile the model, or run it operation by operation", choices=("graph", "eager"))

    most_used: ClassVar[tuple[str, ...]] = (
        *("do_train", "do_eval", "do_predict", "train_file", "predict_file", "init_checkpoint", "output_dir"),
        *("version_2_with_negative", "train_batch_size", "lr", "epochs", "max_seq_length", "seed", "resume"),
    )

    def __post_init__(self) -> None:
        if not (self.run.do_train or self.run.do_eval or self.do_predict):
            raise UserError("nothing to do: pass --do_train, --do_eval or --do_predict.")
        if self.run.do_train and not (self.data.train_file or self.data.train_data_dir):
            raise UserError("--do_train needs --train_file (SQuAD JSON) or --train_data_dir (features).")
        if (self.run.do_eval or self.do_predict) and not self.data.predict_file:
            raise UserError("--do_eval and --do_predict need --predict_file, a SQuAD JSON file with the questions.")
