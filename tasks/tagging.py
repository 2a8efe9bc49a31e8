"""Fine-tunes a tagger of words: named entities, parts of speech."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from configs.model import BertConfig
from configs.tagging import TaggingConfig
from data.reading.loader import Records
from data.tag_schemes import Scheme
from data.tagging import TaggedSentences, TagRecords, read_tagged, tag_names, tagged_json_lines
from evaluation.classification import format_table
from evaluation.tagging import entity_figures, entity_table, tag_figures
from launch.job_shape import JobShape
from modeling import BertForTokenClassification
from modeling.distillation import SoftTarget
from tasks.best_checkpoint import BestCheckpoint
from tasks.classification import RESULTS_FILE, Figures, drop_other_classifier
from tasks.seeds import finetune_seeds
from training.distributed import World
from training.evaluator import Evaluator, Say
from training.start import Start, check_sizes, find_vocabulary
from training.step import Mode
from training.task import Task, padded
from training.terms import TOTAL_LOSS, Figure, LossTerm
from training.trainer import train_and_evaluate
from utils.atomic_files import write_atomically
from utils.file_lock import check_still_there
from utils.json_file import write_json

PREDICTIONS_FILE = "predictions.jsonl"
_PREFIXES = ("B-", "I-")


def finetune_tagger(config: TaggingConfig) -> None:
    """Trains, evaluates and tags with each seed; writes the metrics of all runs to summary.json.

    Raises:
        UserError: files and flags do not fit together. Every file is read before training starts.
    """
    files = Files.read(config)

    def run(config: TaggingConfig, name: str) -> Figures:
        return train_and_evaluate(config, cast(Mode, config.mode), partial(open_task, config, files))

    finetune_seeds(config, ["tags"], run)


@dataclass(frozen=True)
class Files:
    """The sentences of the files in the flags, with tags in IOB2 or without prefixes."""

    training: TaggedSentences | None
    validation: TaggedSentences | None
    test: TaggedSentences | None

    @classmethod
    def read(cls, config: TaggingConfig) -> Files:
        """Reads the files; raises UserError for a damaged file, or for tags that follow no scheme."""
        flags, data = config.run, config.data

        def read(path: str | None, wanted: bool, *, tagged: bool = True) -> TaggedSentences | None:
            if not path or not wanted:
                return None
            return read_tagged(path, data.token_column, data.tag_column, tagged=tagged)

        training, validation = read(data.train_file, flags.do_train), read(data.validation_file, bool(flags.do_eval))
        test = read(data.test_file, True, tagged=False)
        first = training or validation
        if first is not None:
            scheme = cast(Scheme, data.scheme) if data.scheme != "auto" else first.scheme()
            if data.scheme == "auto" and JobShape.current().is_first:
                print(f"the tags of {first.path} follow the scheme {scheme}", flush=True)
            training, validation = (each and each.in_iob2(scheme) for each in (training, validation))
        return cls(
            training and training.first(data.max_train_samples),
            validation and validation.first(data.max_val_samples),
            test,
        )


@dataclass(frozen=True, kw_only=True)
class Tagging(Task):
    """Predicts a tag for every word of a sentence."""

    model_class = BertForTokenClassification
    terms = (
        LossTerm(
            Figure(TOTAL_LOSS, "label_weights"),
            labels=("label_ids", "label_weights"),
            others=(Figure("accuracy", "label_weights"),),
        ),
    )
    judged_by = "eval_score"
    evaluates_each_epoch = True

    files: Files
    output_dir: Path
    best: BestCheckpoint
    do_eval: bool

    @property
    def soft_targets(self) -> tuple[SoftTarget, ...]:
        return (SoftTarget("logits", "label_weights", parameters=("classifier.",)),)

    def evaluate(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        """The metrics of the validation set, and the score; keeps the best checkpoint so far."""
        figures = self._figures(self._tags(evaluator, self.evaluation[0], say))
        score = figures["f1" if "f1" in figures else "accuracy"]
        self.best.offer(score, evaluator, self.vocabulary, say)
        return {f"eval_{name}": value for name, value in {**figures, "score": score}.items()}

    def answer(self, evaluator: Evaluator) -> dict[str, float]:
        """Writes the metrics and the tags of the best checkpoint; returns the metrics."""
        if self.evaluates:
            evaluator = self.best.evaluator(evaluator, self.bert)
        validation, test, figures = self.files.validation, self.files.test, Figures()
        first = evaluator.world.shape.is_first
        answered: tuple[TaggedSentences, list[list[str]]] | None = None
        if first:
            check_still_there(self.output_dir)
            self.output_dir.mkdir(parents=True, exist_ok=True)
        if validation is not None:
            tags = self._tags(evaluator, self.evaluation[0], print)
            figures, answered = self._figures(tags), (validation, tags)
            if first:
                self._report(figures, tags)
        if test is not None:
            answered = test, self._tags(evaluator, self.evaluation[-1], print)
        if answered and first:
            path = self.output_dir / PREDICTIONS_FILE
            write_atomically(path, tagged_json_lines(answered[0].tokens, answered[1]).encode())
            print(f"wrote {path}", flush=True)
        return figures

    def _tags(self, evaluator: Evaluator, records: Records, say: Say) -> list[list[str]]:
        """The tag of each word of each sentence."""
        source, names = cast(TagRecords, records.source), np.array(self.bert.shown_labels)
        predicted = evaluator.outputs(records, ("predicted_ids",), say)["predicted_ids"]  # [r, S]
        tags = names[predicted[source.words[:, 0], source.words[:, 1]]].tolist()
        ends = np.cumsum([len(words) for words in source.sentences.tokens])
        return [tags[end - len(words) : end] for words, end in zip(source.sentences.tokens, ends, strict=True)]

    def _figures(self, tags: list[list[str]]) -> Figures:
        assert self.files.validation is not None and self.files.validation.tags is not None
        return (entity_figures if self._has_entities else tag_figures)(self.files.validation.tags, tags)

    def _report(self, figures: Figures, tags: list[list[str]]) -> None:
        assert self.files.validation is not None and self.files.validation.tags is not None
        results: dict[str, Any] = dict(figures)
        if self._has_entities:
            results["per_type"] = entity_table(self.files.validation.tags, tags)
            print(format_table(results["per_type"]), flush=True)
        path = self.output_dir / RESULTS_FILE
        write_json(path, results)

    @property
    def _has_entities(self) -> bool:
        return any(name.startswith(_PREFIXES) for name in self.bert.shown_labels)


def open_task(config: TaggingConfig, files: Files, start: Start, world: World) -> Tagging:
    """Creates the task; raises UserError if flags, files, vocabulary and model do not fit together."""
    flags, data = config.run, config.data
    vocabulary = find_vocabulary(start, data.vocab_file, data.do_lower_case)
    bert = config.model.bert_config(start.config, vocab_size=vocabulary.size)
    check_sizes(start, bert, vocabulary.size, data.max_seq_length)
    names = tag_names([files.training]) if files.training else bert.shown_labels
    drop_other_classifier(start, names, flags.do_train, labels_tokens=True)
    bert = _with_tags(bert, names)

    def records(sentences: TaggedSentences) -> Records:
        source = TagRecords(sentences, names, vocabulary, max_seq_length=data.max_seq_length, stride=data.stride)
        return padded(Records(source, along_sequence=("label_ids", "label_weights")), config.batch)

    return Tagging(
        bert=bert,
        vocabulary=vocabulary,
        seq_length=data.max_seq_length,
        training=records(files.training) if files.training else None,
        evaluation=tuple(records(each) for each in (files.validation, files.test) if each is not None),
        evaluates=flags.do_train and bool(flags.do_eval) and files.validation is not None,
        patience=config.early_stopping_patience,
        files=files,
        output_dir=Path(flags.output_dir),
        best=BestCheckpoint.of(flags.output_dir, continued=start.checkpoint is not None),
        do_eval=bool(flags.do_eval),
    )


def _with_tags(bert: BertConfig, names: tuple[str, ...]) -> BertConfig:
    return dataclasses.replace(
        bert,
        num_labels=len(names),
        label_names=names,
        problem_type="",
        labels_tokens=True,
        long_text="",
        max_seq_length=0,
    )
