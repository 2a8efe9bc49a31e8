"""Compares a model's metrics in fp32 and in lower precision.

On SQuAD: exact match and F1. On a GLUE task: its metrics on the development sets. On plain texts: how often the most
likely token of a [MASK] is the same, and the cosines between text vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from configs.precisions import PrecisionsConfig
from data.glue import GLUE_TASKS, read_examples, task_directory
from data.squad import read_squad_json
from evaluation.classification import metrics as classification_metrics
from evaluation.squad import evaluate
from inference.model import Model, load
from inference.packed import AskedPrecision
from utils.errors import UserError
from utils.messages import warn

Answers = dict[str, list[Any]]  # {task or set: answers}


def compare(config: PrecisionsConfig) -> str:
    """Returns a table with one row per metric and one column per precision."""
    answers = {}
    for precision in dict.fromkeys(("fp32", *config.precisions)):
        model = load(
            config.model_path,
            device="cpu",
            precision=cast(AskedPrecision, precision),
            int8_keep=config.int8_keep,
            vocab_file=config.vocab_file,
            trust_checkpoint=config.trust_checkpoint,
        )
        answers[precision] = _answers(config, model)
    figures = {precision: _figures(config, given, answers["fp32"]) for precision, given in answers.items()}
    lines = [f"{'':<34}" + "".join(f"{precision:>10}" for precision in figures)]
    for name in figures["fp32"]:
        lines.append(f"{name:<34}" + "".join(f"{each[name]:>10.4f}" for each in figures.values()))
    return "\n".join(lines) + "\n"


def _answers(config: PrecisionsConfig, model: Model) -> Answers:
    if config.squad_file is not None:
        rows = _questions(config)
        return {
            "": _every(model, "question-answering", rows, may_be_empty=any(row.get("is_impossible") for row in rows))
        }
    if config.glue_task is not None:
        return {
            name: _every(model, "text-classification", rows) for name, (rows, _) in _glue_sets(config, model).items()
        }
    texts = _texts(config)
    masked, plain = ([{"text": text} for text in texts if ("[MASK]" in text) == kind] for kind in (True, False))
    answers = {"fill-mask": _all(model, "fill-mask", masked, top_k=1)} if masked else {}
    return answers | ({"vectors": _all(model, "feature-extraction", plain, pooling="mean")} if plain else {})


def _figures(config: PrecisionsConfig, answers: Answers, exact: Answers) -> dict[str, float]:
    """{metric: value} of one precision's answers; `exact` are the answers in fp32."""
    if config.squad_file is not None:
        return _squad_figures(config, answers[""])
    if config.glue_task is not None:
        return _glue_figures(config, answers)
    figures: dict[str, float] = {}
    if "fill-mask" in answers:
        same = [
            _tokens(one) == _tokens(other) for one, other in zip(answers["fill-mask"], exact["fill-mask"], strict=True)
        ]
        figures["fill-mask: same most likely token"] = sum(same) / len(same)
    if "vectors" in answers:
        cosines = [_cosine(one, other) for one, other in zip(answers["vectors"], exact["vectors"], strict=True)]
        figures["vectors: mean cosine"] = sum(cosines) / len(cosines)
        figures["vectors: smallest cosine"] = min(cosines)
    return figures


def _squad_figures(config: PrecisionsConfig, answers: Sequence[Any]) -> dict[str, float]:
    rows = _questions(config)
    predictions = {row["id"]: given[0]["answer"] for row, given in zip(rows, answers, strict=True)}
    paragraphs = [{"context": row["context"], "qas": [row]} for row in rows]
    figures = evaluate([{"paragraphs": paragraphs}], predictions)
    return {name: figures[name] for name in figures if name in ("exact_match", "exact", "f1")}


def _glue_figures(config: PrecisionsConfig, answers: Answers) -> dict[str, float]:
    task = GLUE_TASKS[str(config.glue_task)]
    figures: dict[str, float] = {}
    for name, (_, labels) in _glue_sets(config, None).items():
        given = answers[name]
        numbers = {label: number for number, label in enumerate(task.label_names)}
        numbers |= {f"LABEL_{number}": number for number in range(len(numbers))}
        predictions = [one[0]["score"] if not task.labels else numbers[one[0]["label"]] for one in given]
        metrics = classification_metrics(task.metrics, labels, np.array(predictions))
        figures |= {f"{name} {metric}": value for metric, value in metrics.items()}
    return figures


def _questions(config: PrecisionsConfig) -> list[dict[str, Any]]:
    """The questions of the file with their contexts."""
    return [
        {**question, "context": paragraph["context"]}
        for article in read_squad_json(str(config.squad_file))
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ][: config.max_rows]


def _glue_sets(config: PrecisionsConfig, model: Model | None) -> dict[str, tuple[list[dict[str, Any]], Any]]:
    """{development set: rows and labels}.

    Raises:
        UserError: there is no such task, or the model has a different number of labels.
    """
    if config.glue_task not in GLUE_TASKS:
        raise UserError(f"--glue_task {config.glue_task} is unknown: use one of {', '.join(GLUE_TASKS)}.")
    task = GLUE_TASKS[config.glue_task]
    if model is not None and model.config.num_labels != len(task.label_names):
        raise UserError(
            f"{config.model_path} has {model.config.num_labels} labels, but the task {len(task.label_names)}: "
            "use a model that is fine-tuned for this task."
        )
    sets = {}
    for name in task.dev_sets:
        examples = read_examples(task_directory(str(config.data_dir), task), task, name).first(config.max_rows)
        rows = [dict(zip(("text", "text_pair"), texts, strict=False)) for texts in zip(*examples.texts, strict=True)]
        sets[name] = (rows, examples.labels)
    return sets


def _texts(config: PrecisionsConfig) -> list[str]:
    path = Path(str(config.input_path))
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--input_path {path} cannot be read: {error}.") from None
    texts = [line for line in lines if line.strip()][: config.max_rows]
    if not texts:
        raise UserError(f"--input_path {path} contains no text: pass a file with one text per line.")
    return texts


def _all(model: Model, task: str, rows: Sequence[Mapping[str, Any]], **options: Any) -> list[Any]:
    """The answers to all rows that can be answered, which are the same rows in every precision."""
    answers = [answer for answer in model.stream(task, rows, **options) if not isinstance(answer, UserError)]
    if len(answers) < len(rows):
        warn(f"{len(rows) - len(answers)} of {len(rows)} rows cannot be answered and are skipped.")
    if not answers:
        raise UserError(f"none of the {len(rows)} rows can be answered: use shorter texts.")
    return answers


def _every(model: Model, task: str, rows: Sequence[Mapping[str, Any]], **options: Any) -> list[Any]:
    """The answers to all rows; raises UserError if one cannot be answered, because metrics need all rows."""
    answers = list(model.stream(task, rows, **options))
    for answer in answers:
        if isinstance(answer, UserError):
            raise answer
    return answers


def _tokens(answer: Any) -> list[int]:
    """The most likely token for each mask."""
    masks = [answer] if isinstance(answer[0], dict) else answer
    return [best[0]["token"] for best in masks]


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))
