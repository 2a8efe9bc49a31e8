"""Flags of question answering: `prepare_data.py squad` and `run_squad.py`."""

from __future__ import annotations

from dataclasses import dataclass

from configs.checks import at_least
from configs.cli import flag, section
from configs.model import ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.errors import UserError


@dataclass(frozen=True)
class FeatureFlags:
    """Windows over the contexts."""

    vocab_file: str | None = flag(None, "vocabulary, one token per line; a model directory stands for its vocab.txt")
    do_lower_case: bool | None = flag(
        None, "lower-case the text and strip its accents (default: as the model's tokenizer needs it)"
    )
    max_seq_length: int = flag(384, "question and window together", aliases=("seq_length",), unit="tokens")
    doc_stride: int = flag(128, "from the start of one window to the next", unit="tokens")
    max_query_length: int = flag(64, "questions are cut to this", unit="tokens")
    version_2_with_negative: bool = flag(False, "SQuAD 2.0: some questions have no answer")

    def __post_init__(self) -> None:
        at_least(self, 1, "max_query_length", "doc_stride")
        if self.max_seq_length <= self.max_query_length + 3:
            raise UserError(
                f"--max_seq_length {self.max_seq_length} leaves no room for a context: it must be above "
                f"--max_query_length {self.max_query_length} + 3 ([CLS] and two [SEP])."
            )


@dataclass(frozen=True)
class DecodingFlags:
    """Answers from logits."""

    n_best_size: int = flag(20, "answers per question in nbest_predictions.json, and starts and ends tried per window")
    max_answer_length: int = flag(30, "longest answer", unit="tokens")
    null_score_diff_threshold: float = flag(
        0.0, "SQuAD 2.0: answer nothing where the null score is above the best answer's by more than this"
    )
    verbose_logging: bool = flag(False, "tell where an answer could not be aligned with the original text")

    def __post_init__(self) -> None:
        at_least(self, 1, "n_best_size", "max_answer_length")


@dataclass(frozen=True)
class SquadDataConfig:
    """`prepare_data.py squad`."""

    input_file: str = flag("", "a SQuAD JSON file, v1.1 or v2.0")
    output_dir: str = flag("", "where the shards and dataset.json go")
    is_training: bool = flag(False, "write answers' positions (training) instead of unique ids (evaluation)")
    features: FeatureFlags = section(FeatureFlags)
    num_shards: int = flag(1, "part files")
    num_workers: int | None = flag(None, "processes (default: one per core)")
    overwrite_output_dir: bool = flag(False, "delete what another preparation left in --output_dir")

    def __post_init__(self) -> None:
        for name in ("input_file", "output_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing.")
        if not self.features.vocab_file:
            raise UserError("--vocab_file is missing: name the vocab.txt of the model that will be fine-tuned.")
        at_least(self, 1, "num_shards", "num_workers")


@dataclass(frozen=True)
class SquadDataFlags:
    """Data."""

    train_file: str | None = flag(None, "SQuAD JSON to train on; its features are made once and kept")
    train_data_dir: str | None = flag(None, "features to train on, in place of --train_file")
    train_example_num: int | None = flag(None, "features of one epoch (default: all)", unit="features")
    train_data_part_num: int | None = flag(None, "use this many shards (default: all)", unit="shards")
    predict_file: str | None = flag(None, "SQuAD JSON to answer")
    eval_data_dir: str | None = flag(None, "its features, if they are made already")
    eval_example_num: int | None = flag(None, "features to expect (default: what is found)", unit="features")
    eval_data_part_num: int | None = flag(None, "use this many shards (default: all)", unit="shards")

    def __post_init__(self) -> None:
        at_least(self, 1, "train_example_num", "train_data_part_num", "eval_example_num", "eval_data_part_num")


@dataclass(frozen=True)
class SquadConfig:
    """Everything that a run of run_squad.py is made of."""

    data: SquadDataFlags = section(SquadDataFlags)
    features: FeatureFlags = section(FeatureFlags)
    decoding: DecodingFlags = section(DecodingFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags, default_train_rows=32, default_val_rows=64)
    optimizer: OptimizerFlags = section(OptimizerFlags, lr=3e-5)
    run: RunFlags = section(RunFlags, output_dir="squad_output", epochs=3, do_train=False, do_eval=False, goes_on=False)
    device: DeviceFlags = section(DeviceFlags)
    do_predict: bool = flag(False, "write the answers without scoring them")
    mode: str = flag("graph", "compiled, or operation by operation", choices=("graph", "eager"))

    def __post_init__(self) -> None:
        if not (self.run.do_train or self.run.do_eval or self.do_predict):
            raise UserError("nothing to do: give --do_train, --do_eval or --do_predict.")
        if self.run.do_train and not (self.data.train_file or self.data.train_data_dir):
            raise UserError("--do_train needs --train_file (SQuAD JSON) or --train_data_dir (features).")
        if (self.run.do_eval or self.do_predict) and not self.data.predict_file:
            raise UserError("--do_eval and --do_predict need --predict_file: the questions, as SQuAD JSON.")
