"""Pretraining: masked-LM and next-sentence prediction on OFRecord shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.cli import warn
from configs.model import BertConfig
from configs.pretraining import PretrainingConfig, PretrainingDataFlags
from configs.training import RunFlags
from conversion.tokenizer_files import VOCAB_FILE, Vocabulary, read_vocabulary
from data.reading.dynamic_masking import DynamicMasking
from data.reading.loader import Batch, Records
from data.reading.masking import Masking
from data.records.ofrecord import pretraining_schema
from data.records.record_set import RecordSet
from data.records.sources import check_agreement, equally_long, objective, open_sources
from data.text.tokenization import load_vocab
from evaluation.masked_lm import pretraining_metrics
from launch import ranks
from modeling import BertForPreTraining
from training.checkpoint import write_text_atomically
from training.distributed import World
from training.probes import Probes
from training.run import Run, Task, check_directories, named_vocabulary
from training.schedule import BatchSchedule, learning_rates
from training.step import Mode, build_eval_step
from utils.errors import UserError

EVALUATION_FILE = "eval_results.txt"


def pretrain(config: PretrainingConfig, mode: Mode) -> None:
    """Trains and evaluates as the flags say, phase after phase; everything lands in the output directory."""
    phases = _with_positions(config.in_phases())
    for number, phase in enumerate(phases, 1):
        if len(phases) > 1 and ranks.rank() == 0:
            print(f"phase {number} of {len(phases)}: {phase.run.output_dir}", flush=True)
        _pretrain(phase, mode, dict(enumerate(phases[number:], number + 1)), config.run if number == 1 else None)


def _pretrain(
    config: PretrainingConfig, mode: Mode, later: Mapping[int, PretrainingConfig], stale: RunFlags | None
) -> None:
    """One phase; before it begins, those `later` ones are checked against it, and what an earlier run of `stale` left
    is removed if that is asked for."""
    data = PretrainingData.open(config.data, config.run.do_train)
    run = Run(config, mode)
    bert = config.model.bert_config(run.start_config, vocab_size=data.vocab_size)
    vocab_file = data.find_vocab(bert, run.start_vocab_file)
    records, held_out = data.for_model(bert, vocab_file, config.run.seed)
    records, held_out = run.padded(records), run.padded(held_out) if held_out else None
    run.check_alike(records if config.run.do_train else None, held_out)
    steps = _steps(config, len(records), run.world.size)
    for number, phase in later.items():
        with _in_phase(number):
            steps = _check_phase(phase, bert, vocab_file, steps, run.world)
    for phase in later.values():
        run.clear_directories(phase.run)  # what an earlier run left there would be resumed after a restart
    if stale:
        run.clear_directories(stale)
    model = run.build_model(BertForPreTraining, bert, unused=data.unused_weights)
    eval_step = build_eval_step(mode, model, run.world)

    def evaluate(say: Callable[[str], None]) -> dict[str, float]:
        assert held_out is not None
        sums: dict[str, float] = {}
        tokens = examples = 0.0
        for batch in run.evaluation_batches(held_out, say):
            for name, value in eval_step(batch).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            tokens += batch.get("masked_lm_weights", np.zeros(1)).sum(dtype=np.float64)
            examples += batch["example_weights"].sum(dtype=np.float64)
        tokens, examples = run.world.sum(np.array([tokens, examples]))
        metrics = pretraining_metrics(sums, tokens, examples)
        if run.world.rank == 0:
            lines = "".join(f"{name} = {value}\n" for name, value in metrics.items())
            run.log_dir.mkdir(parents=True, exist_ok=True)
            write_text_atomically(run.log_dir / EVALUATION_FILE, lines)
        return metrics

    task = Task(
        records=records,
        seq_length=data.seq_length,
        predictions=data.max_predictions_per_seq,
        vocabulary=data.vocabulary(vocab_file),
        evaluate=evaluate if held_out else None,
        inspect=Probes.of(config.probes, run.log_dir, bert, vocab_file),
    )
    if config.run.do_train:
        run.train(model, task)
    elif task.evaluate:
        run.evaluate(task.evaluate)
    else:
        raise UserError("--do_train False leaves nothing to do: give --val_ofrecord_path or --val_fraction.")


def _with_positions(phases: list[PretrainingConfig]) -> list[PretrainingConfig]:
    """The phases with room for the longest sequences of all from the start, where neither a flag nor the weights to
    start from say how much there is to be."""
    first, run = phases[0].model, phases[0].run
    starts_afresh = run.load_from == "scratch" or not (run.load_from or first.init_checkpoint)
    if len(phases) == 1 or first.max_position_embeddings or not starts_afresh:
        return phases
    size = BertConfig.max_position_embeddings
    for number, phase in enumerate(phases, 1):
        with _in_phase(number):
            size = max(size, PretrainingData.open(phase.data).seq_length)
    return [replace(phase, model=replace(phase.model, max_position_embeddings=size)) for phase in phases]


@contextmanager
def _in_phase(number: int) -> Iterator[None]:
    """Inside, the user's mistakes are told with the phase they are in."""
    try:
        yield
    except UserError as error:
        raise UserError(f"phase {number}: {error}") from None


def _check_phase(
    config: PretrainingConfig, bert: BertConfig, vocab_file: Path | None, steps_before: int, world: World
) -> int:
    """Raises UserError where a phase cannot follow the one before it; returns the updates it ends after."""
    data = PretrainingData.open(config.data)
    bert = config.model.bert_config(bert, vocab_size=data.vocab_size)
    vocab_file = data.find_vocab(bert, vocab_file)
    records, _ = data.for_model(bert, vocab_file, config.run.seed)
    Probes.of(config.probes, Path(config.run.output_dir), bert, vocab_file)
    steps = _steps(config, len(records), world.size)
    learning_rates(config.optimizer, max(1, steps))
    if config.run.load_optimizer_state and (config.run.max_steps or 0) <= steps_before:
        raise UserError(f"with the optimizer's state it goes on at step {steps_before}: give a higher --max_steps.")
    if world.rank == 0:
        check_directories(config.run)
    return steps


def _steps(config: PretrainingConfig, records: int, world_size: int) -> int:
    """The updates of a run that starts at step 0."""
    sizes = BatchSchedule.of(config.batch, world_size)
    return config.run.max_steps or sizes.steps_for(round(records * config.run.epochs))


@dataclass(frozen=True)
class PretrainingData:
    """The shards to train and to evaluate on, and what they and the flags agree on."""

    flags: PretrainingDataFlags
    source: RecordSet
    training: Records
    evaluation: Records | None
    seq_length: int
    max_predictions_per_seq: int

    @classmethod
    def open(cls, flags: PretrainingDataFlags, do_train: bool = True) -> PretrainingData:
        """Opens the shards; raises UserError where they are not pretraining records or disagree with the flags."""
        if not do_train and not flags.ofrecord_path:
            flags = replace(flags, ofrecord_path=flags.val_ofrecord_path)  # to evaluate takes one set
        if not flags.ofrecord_path:
            raise UserError("--ofrecord_path is missing: name a directory that `prepare_data.py pretraining` wrote.")
        source = open_sources(
            flags.ofrecord_path,
            parts=flags.train_data_part,
            seq_length=flags.seq_length,
            max_predictions_per_seq=None if flags.masking == "dynamic" else flags.max_predictions_per_seq,
        )
        held_out = (
            open_sources(flags.val_ofrecord_path, seq_length=flags.seq_length) if flags.val_ofrecord_path else None
        )
        if held_out:
            source, held_out = equally_long(source, held_out)
        lengths = _lengths(source)
        _check_objective(flags, source)
        dynamic = _is_dynamic(flags, source)
        for name, found in zip(("seq_length", "max_predictions_per_seq"), lengths, strict=True):
            asked = getattr(flags, name)
            if asked is not None and asked != found and not (dynamic and name == "max_predictions_per_seq"):
                raise UserError(
                    f"--{name} {asked} disagrees with {source.name}, whose records have {found}: leave the flag out or "
                    "prepare the data anew."
                )
        training, evaluation = Records(source), None
        if held_out:
            check_agreement(source, held_out)
            evaluation = Records(held_out)
        elif flags.val_fraction:
            shards = len(source.shards)
            kept = shards - max(1, round(flags.val_fraction * shards))
            if kept < 1:
                raise UserError(
                    f"--val_fraction {flags.val_fraction} of {shards} shards leaves none to train on: "
                    "prepare the data with a larger --num_shards."
                )
            boundary = int(source.shard_starts[kept])
            training, evaluation = Records(source, 0, boundary), Records(source, boundary)
        if flags.train_dataset_size is not None and flags.train_dataset_size > len(training):
            warn(f"--train-dataset-size {flags.train_dataset_size} is more than the {len(training)} records found.")
        count = min(flags.train_dataset_size or len(training), flags.max_train_samples or len(training), len(training))
        training = replace(training, count=count)
        if evaluation and flags.max_val_samples:
            evaluation = replace(evaluation, count=min(flags.max_val_samples, len(evaluation)))
        predictions = flags.max_predictions_per_seq if dynamic else None
        return cls(flags, source, training, evaluation, lengths[0], predictions or lengths[1])

    @property
    def unused_weights(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that evaluation does without: the second task's, where it is left out."""
        left_out = self.flags.eval_only_mlm or self.flags.skip_nsp or objective(self.source) == "none"
        return ("bert.pooler.", "cls.seq_relationship.") if left_out else ()

    @property
    def vocab_size(self) -> int | None:
        """The vocabulary's size, where the data or a vocabulary of its own tells it."""
        size: int | None = self.source.metadata.get("vocab_size")
        return size if size or not self._own_vocab else read_vocabulary(self._own_vocab).size

    @property
    def _own_vocab(self) -> Path | None:
        """The vocabulary that the flags name, or that lies beside the data."""
        beside = Path(self.source.directory) / VOCAB_FILE
        named = self.flags.vocab_file
        return named_vocabulary(named) if named else beside if beside.exists() else None

    @property
    def do_lower_case(self) -> bool | None:
        """Whether the text was lower-cased; None if neither the flags nor the data say so."""
        stored = self.source.metadata.get("do_lower_case")
        if self.flags.do_lower_case is not None and stored is not None and self.flags.do_lower_case != stored:
            raise UserError(f"--do_lower_case {self.flags.do_lower_case} disagrees with {self.source.name}.")
        return stored if self.flags.do_lower_case is None else self.flags.do_lower_case

    def vocabulary(self, file: Path | None) -> Vocabulary | None:
        """The vocabulary in a file, with the rules that the data were made with."""
        return read_vocabulary(file, self.do_lower_case, settings_in=Path(self.source.directory)) if file else None

    def for_model(self, bert: BertConfig, vocab_file: Path | None, seed: int) -> tuple[Records, Records | None]:
        """The records to train and to evaluate on, checked against the model's tables as they are read, masked where
        masks are drawn anew, and without what the flags leave out of the loss."""
        if self.seq_length > bert.max_position_embeddings:
            raise UserError(
                f"--max_position_embeddings {bert.max_position_embeddings} is less than the data's sequences of "
                f"{self.seq_length} tokens: raise it."
            )
        if self.vocab_size is not None and self.vocab_size > bert.vocab_size:
            raise UserError(
                f"--vocab_size {bert.vocab_size} is less than the {self.vocab_size} entries of the vocabulary that "
                f"{self.source.name} was made with: leave the flag out or raise it."
            )
        below = {
            "input_ids": bert.vocab_size,
            "segment_ids": bert.type_vocab_size,
            "masked_lm_ids": bert.vocab_size,
            "masked_lm_positions": self.seq_length,
            "next_sentence_labels": 2,
        }
        masking = self._masking(vocab_file, seed)
        if masking:
            below["input_ids"] = min(bert.vocab_size, masking.masking.vocab_size)
        labels = {"next_sentence_labels"}
        left_out = (labels if self.flags.skip_nsp else set()) | (_ANSWERS if self.flags.skip_mlm else set())
        training = replace(self.training, below=below, transform=_transform(masking, left_out))
        if self.evaluation is None:
            return training, None
        left_out = left_out | labels if self.flags.eval_only_mlm else left_out
        return training, replace(self.evaluation, below=below, transform=_transform(masking, left_out))

    def _masking(self, vocab_file: Path | None, seed: int) -> DynamicMasking | None:
        flags = self.flags
        if not _is_dynamic(flags, self.source):
            return None
        if vocab_file is None:
            raise UserError("--masking dynamic needs the vocabulary: name it with --vocab_file.")
        vocab = load_vocab(vocab_file)
        masking = Masking.of_vocab(
            vocab,
            max_predictions_per_seq=self.max_predictions_per_seq,
            masked_lm_prob=flags.masked_lm_prob,
            whole_words=flags.do_whole_word_mask,
        )
        swaps = objective(self.source) == "sop" and "masked_lm_ids" not in self.source.schema
        return DynamicMasking.of_vocab(vocab, masking, seed, swaps=swaps)

    def find_vocab(self, bert: BertConfig, starts_with: Path | None) -> Path | None:
        """The vocabulary to save with the model: the named one, the data's, or the one it starts with.

        Raises:
            UserError: it is not the one the data was made with, or larger than the model's.
        """
        path = self._own_vocab or starts_with
        if path is None:
            warn("the model is saved without a vocabulary: --vocab_file names it.")
            return None
        vocabulary = read_vocabulary(path)
        if vocabulary.size > bert.vocab_size:
            raise UserError(
                f"--vocab_file {path} has {vocabulary.size} entries, more than the model's {bert.vocab_size}."
            )
        if starts_with and read_vocabulary(starts_with).ids != vocabulary.ids:
            raise UserError(f"{path} is not the vocabulary of the weights to start from, {starts_with}.")
        digest = self.source.metadata.get("vocab_sha256")
        if digest and digest != vocabulary.sha256:
            raise UserError(f"--vocab_file {path} is not the vocabulary that {self.source.name} was made with.")
        return path


_ANSWERS = {"masked_lm_ids", "masked_lm_weights"}


def _transform(masking: DynamicMasking | None, left_out: set[str]) -> Callable[[Batch, np.ndarray], Batch] | None:
    """Masks a batch and leaves features out; None where nothing is to be done."""
    if masking is None and not left_out:
        return None

    def transform(batch: Batch, places: np.ndarray) -> Batch:
        batch = masking(batch, places) if masking else batch
        batch = {name: array for name, array in batch.items() if name not in left_out}
        if left_out >= _ANSWERS:
            batch["masked_lm_positions"] = batch["masked_lm_positions"][:, :1]  # without any, all would be decoded
        return batch

    return transform


def _is_dynamic(flags: PretrainingDataFlags, source: RecordSet) -> bool:
    """Whether masks are drawn anew at each reading."""
    return flags.masking == "dynamic" or "masked_lm_ids" not in source.schema


def _check_objective(flags: PretrainingDataFlags, source: RecordSet) -> None:
    found = objective(source)
    if flags.masking == "static" and _is_dynamic(flags, source):
        raise UserError(f"--masking static: {source.name} holds no masks; leave the flag out.")
    if flags.objective == "none" and found != "none" and not flags.skip_nsp:
        raise UserError(f"--objective none, but {source.name} has labels for {found}: --skip_nsp leaves them out.")
    if flags.objective not in (None, "none", found):
        raise UserError(
            f"--objective {flags.objective} disagrees with {source.name}, which was made for {found}: prepare "
            "the data anew."
        )
    if flags.skip_mlm and found == "none":
        raise UserError(f"--skip_mlm leaves nothing to learn: {source.name} holds no other task.")


def _lengths(source: RecordSet) -> tuple[int, int]:
    """(seq_length, max_predictions_per_seq) of pretraining records; of the latter, 20 where they hold no masks."""
    schema = source.schema
    masked = "masked_lm_positions" in schema
    if "input_ids" not in schema or not (masked or schema.keys() <= pretraining_schema(1, 1).keys()):
        raise UserError(
            f"{source.name} holds records of {', '.join(schema)}, not of pretraining: name another directory."
        )
    if masked:
        predictions = schema["masked_lm_positions"][1]
    else:  # for the length that the set was prepared for
        share = schema["input_ids"][1] / source.metadata.get("seq_length", schema["input_ids"][1])
        predictions = max(1, round(share * source.metadata.get("max_predictions_per_seq", 20)))
    lengths = schema["input_ids"][1], predictions
    for name, feature in pretraining_schema(*lengths).items():
        optional = name == "next_sentence_labels" or (name.startswith("masked_lm_") and not masked)
        if schema.get(name) != feature and not (optional and name not in schema):
            raise UserError(f"{source.name}: the feature {name} is {schema.get(name)}, but should be {feature}.")
    return lengths
