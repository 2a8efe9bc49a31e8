"""Fine-tunes a classifier on the user's own files: columns, labels, held-out rows, metrics and predictions.csv."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from configs.classifier import ClassifierConfig, ClassifierDataFlags
from configs.model import BertConfig, LongText
from data.classification import LabelLoss, TextExamples, balanced_weights
from data.labels import NUMBER, SEVERAL, SINGLE, Labels, guess_problem_type
from data.splitting import split
from data.tables import Table, check_columns, read_table
from evaluation.classification import (
    FIGURES,
    LOWER_IS_BETTER,
    class_table,
    draw_confusion_matrix,
    figures_of,
    format_table,
    predictions_of,
)
from launch.job_shape import JobShape
from tasks.classification import RESULTS_FILE, Figures, Problem, finetune
from tasks.seeds import finetune_seeds
from utils.atomic_files import write_atomically
from utils.errors import UserError
from utils.json_file import read_settings, write_json

PREDICTIONS_FILE, TEST_RESULTS_FILE, CONFUSION_FILE = "predictions.csv", "test_results.json", "confusion_matrix.png"
_PROBLEM_TYPES = {"single_label": SINGLE, "multi_label": SEVERAL, "regression": NUMBER}
_DEFAULT_METRIC = {SINGLE: "accuracy", SEVERAL: "micro_f1", NUMBER: "pearson_spearman"}
# Column names that are recognized.
_TEXT_NAMES = ("text", "sentence", "sentence1", "text_a", "review", "content", "comment")
_PAIR_NAMES = ("text_pair", "sentence2", "text_b")
_LABEL_NAMES = ("label", "labels", "class", "category", "score")


def finetune_classifier(config: ClassifierConfig) -> None:
    """Trains, evaluates and predicts with each seed; writes the metrics of all runs to summary.json.

    Raises:
        UserError: files, columns and flags do not fit together. Every file is read before training starts.
    """
    files = Files.read(config)

    def run(config: ClassifierConfig, name: str) -> Figures:
        return finetune(config, lambda start: files.problem(config, start))

    finetune_seeds(config, [files.columns.label or "text"], run)


@dataclass(frozen=True)
class Columns:
    """The names of the columns to read; `label` is None if there are no labels."""

    text: str
    pair: str | None
    label: str | None

    @classmethod
    def of(cls, flags: ClassifierDataFlags, table: Table, *, labelled: bool) -> Columns:
        """The columns in the flags, or columns with unambiguous names; prints its guesses.

        Raises:
            UserError: a column is missing, or the choice is ambiguous.
        """
        for name, flag in (
            (flags.text_column, "--text_column"),
            (flags.text_pair_column, "--text_pair_column"),
            (flags.label_column if labelled else None, "--label_column"),
        ):
            if name is not None:
                table.column(name, flag)
        label = flags.label_column or _only(_LABEL_NAMES, table)
        text = flags.text_column or _only(_TEXT_NAMES, table)
        others = [name for name in table.columns if name not in (label, text, flags.text_pair_column)]
        if text is None and len(others) == 1:
            text, others = others[0], []
        if label is None and labelled and len(others) == 1:
            label = others[0]
        pair = flags.text_pair_column or (None if flags.text_column else _only(_PAIR_NAMES, table))
        names = ", ".join(map(repr, table.columns))
        if text is None:
            raise UserError(f"--text_column is missing: choose one of the columns of {table.path}: {names}.")
        if label is None and labelled:
            raise UserError(f"--label_column is missing: choose one of the columns of {table.path}: {names}.")
        chosen = cls(text, pair, label if labelled or label in table.columns else None)
        if len({*chosen.texts, chosen.label}) <= len(chosen.texts):
            raise UserError(f"--text_column, --text_pair_column and --label_column name {text!r} twice.")
        if not flags.text_column or (labelled and not flags.label_column):
            _say(
                f"reading the texts from {text!r}" + (f" and {pair!r}" if pair else "") + f", the labels from {label!r}"
            )
        return chosen

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns."""
        return (self.text, self.pair) if self.pair else (self.text,)

    def examples(self, table: Table, labels: Labels | None) -> TextExamples:
        """A table's texts, with its labels if requested; raises UserError for an empty text."""
        columns = []
        for name in self.texts:
            for row, value in enumerate(table.columns[name]):
                if not isinstance(value, str):
                    raise UserError(f"{table.location(row)} has {json.dumps(value)} in {name!r}, which is not text.")
                if not value.strip():
                    raise UserError(f"{table.location(row)} has an empty text in {name!r}: add it, or remove the row.")
            columns.append(table.columns[name])
        return TextExamples(table.path, table.lines, tuple(columns), labels.encode(table) if labels else None)


@dataclass(frozen=True)
class Files:
    """The tables in the flags, limited to the rows that are used."""

    columns: Columns
    problem_type: str
    training: Table | None
    validation: Table | None
    test: Table | None
    labels: Labels | None  # of the whole training file, before rows are held out

    @classmethod
    def read(cls, config: ClassifierConfig) -> Files:
        """Reads the tables; raises UserError for a damaged file, or for files with different columns."""
        flags, data = config.run, config.data

        def table(path: str | None, wanted: bool) -> Table | None:
            return read_table(path, delimiter=data.delimiter, header=data.header) if path and wanted else None

        training, test = table(data.train_file, flags.do_train), table(data.test_file, True)
        validation = table(data.validation_file, bool(flags.do_eval))
        first = next(each for each in (training, validation, test) if each is not None)
        columns = Columns.of(data, first, labelled=first is not test)
        needed = (*columns.texts, *([columns.label] if columns.label else []))
        check_columns([each for each in (training, validation) if each is not None], needed)
        check_columns([first, *([test] if test is not None else [])], columns.texts)
        problem_type = _problem_type(data, first, columns)
        labels: Labels | None = None
        if training is not None:
            assert columns.label
            labels = Labels.of(training, columns.label, problem_type, data.label_separator)
            if data.validation_fraction and flags.do_eval:
                classes = training.columns[columns.label] if problem_type == SINGLE else None
                training, validation = split(training, data.validation_fraction, config.run.seed, classes)
        return cls(
            columns,
            problem_type,
            None if training is None else training.first(data.max_train_samples),
            None if validation is None else validation.first(data.max_val_samples),
            test,
            labels,
        )

    def problem(self, config: ClassifierConfig, start: BertConfig | None) -> Problem:
        """Creates the problem, given the initial model, whose label names apply if nothing is trained."""
        labels = self._labels(config, start)
        test_labels = labels if self.test is not None and self._test_is_labelled(self.test) else None
        training = None if self.training is None else self.columns.examples(self.training, labels)
        validation = None if self.validation is None else self.columns.examples(self.validation, labels)
        test = None if self.test is None else self.columns.examples(self.test, test_labels)
        return Problem(
            labels.names,
            labels.problem_type,
            training,
            [validation] if validation else [],
            [test] if test else [],
            FileJudging(labels, config.loss.best_metric, validation, test, self.test or self.validation),
            loss=_loss(config, labels, training),
            long_text=cast(LongText, config.data.long_text),
            kept={"long_text": config.data.long_text, "max_seq_length": config.data.max_seq_length},
            patience=config.loss.early_stopping_patience,
        )

    def _labels(self, config: ClassifierConfig, start: BertConfig | None) -> Labels:
        column, separator = self.columns.label or "label", config.data.label_separator
        if self.labels is not None:
            return self.labels
        assert start is not None  # without training there is an initial model
        problem_type = NUMBER if start.is_regression else SEVERAL if start.problem_type == SEVERAL else SINGLE
        return Labels(column, problem_type, separator, start.shown_labels)

    def _test_is_labelled(self, test: Table) -> bool:
        return self.columns.label in test.columns and any(
            value not in ("", None) for value in test.columns[self.columns.label or ""]
        )


@dataclass(frozen=True)
class FileJudging:
    """Computes the metrics of the user's own files and writes predictions.csv."""

    labels: Labels
    best_metric: str | None
    validation: TextExamples | None
    test: TextExamples | None
    answered: Table | None  # the rows of predictions.csv

    def __post_init__(self) -> None:
        figures = dict.fromkeys((*FIGURES[self.labels.problem_type], _DEFAULT_METRIC[self.labels.problem_type]))
        if self.best_metric is not None and self.best_metric not in figures:
            raise UserError(
                f"--best_metric {self.best_metric} is not a metric of this problem type: use {', '.join(figures)}."
            )

    def figures(self, sets: list[np.ndarray]) -> Figures:
        """The metrics of the validation set."""
        assert self.validation is not None and self.validation.labels is not None
        return figures_of(self.validation.labels, sets[0], self.labels.problem_type)

    def score(self, figures: Figures) -> float:
        """--best_metric, negative if lower is better."""
        name = self.best_metric or _DEFAULT_METRIC[self.labels.problem_type]
        if name == "pearson_spearman":
            return (figures["pearson"] + figures["spearman"]) / 2
        return -figures[name] if name in LOWER_IS_BETTER else figures[name]

    def write(self, output: Path, validation: list[np.ndarray], tests: list[np.ndarray]) -> None:
        """Writes predictions.csv, the confusion matrix, and the table of classes in eval_results.json."""
        for examples, logits, name in (
            (self.validation, validation, RESULTS_FILE),
            (self.test, tests, TEST_RESULTS_FILE),
        ):
            if logits and examples is not None and examples.labels is not None:
                self._report(output, examples.labels, logits[0], name)
        answers = tests or validation
        if answers and self.answered is not None:
            path = output / PREDICTIONS_FILE
            write_atomically(path, predictions_csv(self.answered, answers[0], self.labels).encode())
            print(f"wrote {path}", flush=True)

    def _report(self, output: Path, labels: np.ndarray, logits: np.ndarray, name: str) -> None:
        problem_type, names = self.labels.problem_type, self.labels.names
        results: dict[str, Any] = dict(figures_of(labels, logits, problem_type))
        if problem_type != NUMBER:
            predictions = predictions_of(logits, problem_type)
            results["per_class"] = class_table(labels, predictions, names)
            print(format_table(results["per_class"]), flush=True)
            if problem_type == SINGLE and name == RESULTS_FILE:
                draw_confusion_matrix(output / CONFUSION_FILE, labels, predictions, names)
        write_json(output / name, results)


def predictions_csv(table: Table, logits: np.ndarray, labels: Labels) -> str:
    """The rows of a table with two additional columns: `prediction`, and `score`, its probability.

    Several labels, and their probabilities, are joined by the separator. For a number, both columns are equal.
    """
    written = io.StringIO(newline="")
    writer = csv.writer(written)
    writer.writerow([*table.columns, "prediction", "score"])
    rows = zip(*table.columns.values(), strict=True)
    for values, row in zip(rows, logits.astype(np.float64), strict=True):
        fields = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
        writer.writerow([*fields, *_answer(row, labels)])
    return written.getvalue()


def _answer(logits: np.ndarray, labels: Labels) -> tuple[str, str]:
    if labels.problem_type == NUMBER:
        return f"{logits[0]:.7g}", f"{logits[0]:.7g}"
    if labels.problem_type == SEVERAL:
        found = np.flatnonzero(logits > 0)
        scores = 1 / (1 + np.exp(-logits[found]))
        return labels.separator.join(labels.names[i] for i in found), labels.separator.join(f"{s:.6f}" for s in scores)
    best = int(logits.argmax())
    return labels.names[best], f"{1 / np.exp(logits - logits[best]).sum():.6f}"


def _problem_type(data: ClassifierDataFlags, table: Table, columns: Columns) -> str:
    if data.problem_type:
        return _PROBLEM_TYPES[data.problem_type]
    if columns.label is None:
        return SINGLE
    guess = guess_problem_type(table.columns[columns.label])
    if guess != SINGLE:
        name = next(name for name, kind in _PROBLEM_TYPES.items() if kind == guess)
        _say(f"reading {columns.label!r} as --problem_type {name}")
    return guess


def _loss(config: ClassifierConfig, labels: Labels, training: TextExamples | None) -> LabelLoss:
    """Label weights and smoothing from the flags; raises UserError if they do not fit the labels."""
    named, smoothing, count = config.loss.class_weights, config.loss.label_smoothing, len(labels.names)
    if named and labels.problem_type == NUMBER:
        raise UserError("--class_weights needs labels, but the label column contains numbers: omit the flag.")
    if smoothing and labels.problem_type != SINGLE:
        raise UserError("--label_smoothing needs exactly one label per text: omit the flag.")
    if training is None:
        return LabelLoss()
    assert training.labels is not None
    weights = np.ones(count) if smoothing else None
    if named == "balanced":
        weights = balanced_weights(training.labels, count)
    elif named:
        weights = _read_weights(named, labels.names)
    return LabelLoss(weights, smoothing)


def _read_weights(path: str, names: tuple[str, ...]) -> np.ndarray:
    weights = read_settings(path, "--class_weights ")
    for name in names:
        if name not in weights:
            raise UserError(f"--class_weights {path} has no weight for the label {name!r}: add one.")
        weight = weights[name]
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
            raise UserError(f"--class_weights {path} needs a number above 0 for the label {name!r}, not {weight!r}.")
    unknown = sorted(weights.keys() - set(names))
    if unknown:
        raise UserError(f"--class_weights {path} has the label {unknown[0]!r}, which is not in the training file.")
    return np.array([weights[name] for name in names], np.float64)


def _only(names: tuple[str, ...], table: Table) -> str | None:
    """The only column with one of these names; None if there are none or several."""
    found = [column for column in table.columns if column.lower() in names]
    return found[0] if len(found) == 1 else None


def _say(sentence: str) -> None:
    if JobShape.current().is_first:
        print(sentence, flush=True)
