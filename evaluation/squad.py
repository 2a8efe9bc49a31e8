"""Exact match and F1 of SQuAD predictions, equal to the official evaluation scripts for v1.1 and v2.0.

`python -m evaluation.squad DATASET.json PREDICTIONS.json` prints the same JSON as the official scripts, and nothing
else, on standard output. Sums have the same order, so that every digit agrees.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import string
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.cli import run
from data.squad import questions, read_squad_json
from utils.errors import UserError
from utils.json_file import read_json
from utils.messages import warn

Scores = dict[str, float]  # {question id: score in [0, 1]}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """`text` in lower case, without ASCII punctuation, English articles and repeated white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def evaluate(
    articles: Sequence[dict[str, Any]],
    predictions: Mapping[str, str],
    *,
    na_probs: Mapping[str, float] | None = None,
    na_prob_thresh: float = 1.0,
    out_image_dir: str | Path | None = None,
) -> dict[str, float]:
    """Score predictions with the official metrics, in percent.

    A question without a prediction scores 0, with a warning. (The official v2.0 script fails in that case.)

    Args:
        articles: from `read_squad_json`, scored by the rules of v2.0 if `is_version_2`, else by those of v1.1.
        predictions: {question id: answer}; "" means no answer.
        na_probs: v2.0 only: {question id: no-answer score}, a probability or null odds; adds the best thresholds to the
            result.
        na_prob_thresh: v2.0 only: above this no-answer score, the prediction is "" (no answer).
        out_image_dir: v2.0 with `na_probs` only: adds average precisions to the result and writes precision-recall
            curves to this directory.

    Raises:
        UserError: there are no questions, a v1.1 question has no answers, a prediction or probability has the wrong
            type, or `na_probs` is given for v1.1 or lacks a question.
    """
    by_id = {question["id"]: question for question in questions(articles)}
    if not by_id:
        raise UserError("the data set contains no question to score.")
    missing = [qas_id for qas_id in by_id if qas_id not in predictions]
    if missing:
        warn(f"{len(missing)} of {len(by_id)} questions have no prediction and score 0; the first is {missing[0]}.")
    for qas_id in by_id:
        if not isinstance(predictions.get(qas_id, ""), str):
            raise UserError(f"the prediction for question {qas_id} is {predictions[qas_id]!r}, not a string.")
    version_2 = is_version_2(articles)
    check_gold(articles, version_2=version_2)
    if not version_2:
        if na_probs is not None:
            raise UserError("--na-prob-file needs SQuAD 2.0, but no question of this data set has is_impossible.")
        return _evaluate_v1(questions(articles), predictions)
    without = [i for i in by_id if not _is_number(na_probs.get(i))] if na_probs is not None else []
    if without:
        raise UserError(f"--na-prob-file has no finite number for question {without[0]}.")
    return _evaluate_v2(by_id, predictions, na_probs, na_prob_thresh, out_image_dir)


def check_gold(articles: Sequence[dict[str, Any]], *, version_2: bool) -> None:
    """Raise UserError if a v1.1 question has no answers, as in a test set."""
    for question in () if version_2 else questions(articles):
        if not question.get("answers"):
            raise UserError(
                f"question {question['id']} has no answers to compare with: score a file with answers, or answer this "
                "one with run_squad.py --do_predict. For a SQuAD 2.0 file, pass --version_2_with_negative True."
            )


def is_version_2(articles: Iterable[dict[str, Any]]) -> bool:
    """Whether the rules of SQuAD 2.0 apply: a question has `is_impossible`, or some have answers and others none."""
    all_questions = list(questions(articles))
    if any("is_impossible" in question for question in all_questions):
        return True
    return {bool(question["answers"]) for question in all_questions if "answers" in question} == {True, False}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# ---------------------------------------------------------------------------------------------------------------------
# v1.1


def _evaluate_v1(all_questions: Iterable[dict[str, Any]], predictions: Mapping[str, str]) -> dict[str, float]:
    exact_match = f1 = 0.0
    total = 0
    for question in all_questions:
        total += 1
        gold = [normalize_answer(answer["text"]) for answer in question["answers"]]
        if question["id"] in predictions:
            prediction = normalize_answer(predictions[question["id"]])
            exact_match += prediction in gold
            f1 += max(_f1(answer.split(), prediction.split(), both_empty=0) for answer in gold)
    return {"exact_match": 100.0 * exact_match / total, "f1": 100.0 * f1 / total}


def _f1(gold: list[str], prediction: list[str], *, both_empty: float) -> float:
    if not gold and not prediction:
        return both_empty
    common = (Counter(gold) & Counter(prediction)).total()
    if not common:
        return 0
    precision, recall = common / len(prediction), common / len(gold)
    return (2 * precision * recall) / (precision + recall)


# ---------------------------------------------------------------------------------------------------------------------
# v2.0


def _evaluate_v2(
    by_id: Mapping[str, dict[str, Any]],
    predictions: Mapping[str, str],
    na_probs: Mapping[str, float] | None,
    na_prob_thresh: float,
    out_image_dir: str | Path | None,
) -> dict[str, float]:
    exact: Scores = {}
    f1: Scores = {}
    for qas_id, question in by_id.items():
        # If there is no answer, only "" is correct.
        gold = list(filter(None, (normalize_answer(a["text"]) for a in question.get("answers", ())))) or [""]
        answered = qas_id in predictions
        prediction = normalize_answer(predictions.get(qas_id, ""))
        exact[qas_id] = int(answered and prediction in gold)
        f1[qas_id] = max(_f1(a.split(), prediction.split(), both_empty=1) for a in gold) if answered else 0
    has_answer = {qas_id: bool(question.get("answers")) for qas_id, question in by_id.items()}
    answerable = [qas_id for qas_id, has in has_answer.items() if has]
    unanswerable = [qas_id for qas_id, has in has_answer.items() if not has]

    given = {qas_id: value for qas_id, value in (na_probs or {}).items() if qas_id in predictions}
    final_exact, final_f1 = (_with_threshold(s, given, has_answer, na_prob_thresh) for s in (exact, f1))
    result = _averages(final_exact, final_f1, list(exact), "")
    if answerable:
        result |= _averages(final_exact, final_f1, answerable, "HasAns_")
    if unanswerable:
        result |= _averages(final_exact, final_f1, unanswerable, "NoAns_")
    if na_probs is not None:
        na_probs = {qas_id: value for qas_id, value in na_probs.items() if qas_id in by_id}
        for name, scores in (("exact", exact), ("f1", f1)):
            best, threshold = _best_threshold(predictions, scores, na_probs, has_answer)
            result |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
        if out_image_dir is not None:
            _make_directory(Path(out_image_dir))
            oracle = {qas_id: float(has) for qas_id, has in has_answer.items()}
            for name, scores in (("exact", exact), ("f1", f1), ("oracle", oracle)) if answerable else ():
                precisions, recalls, average = _precision_recall(scores, na_probs, has_answer)
                result[f"pr_{name}_ap"] = average
                _draw_curve(precisions, recalls, Path(out_image_dir), name)
            for name, ids in (("hasAns", answerable), ("noAns", unanswerable)):
                if ids:
                    _draw_histogram([na_probs[qas_id] for qas_id in ids], Path(out_image_dir), name)
    return result


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out-image-dir {path} cannot be created: {error.strerror}.") from None


def _with_threshold(
    scores: Scores, na_probs: Mapping[str, float], has_answer: Mapping[str, bool], threshold: float
) -> Scores:
    return {
        qas_id: float(not has_answer[qas_id]) if na_probs.get(qas_id, 0.0) > threshold else score
        for qas_id, score in scores.items()
    }


def _averages(exact: Scores, f1: Scores, ids: Sequence[str], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}exact": 100.0 * sum(exact[qas_id] for qas_id in ids) / len(ids),
        f"{prefix}f1": 100.0 * sum(f1[qas_id] for qas_id in ids) / len(ids),
        f"{prefix}total": len(ids),
    }


def _best_threshold(
    predictions: Mapping[str, str], scores: Scores, na_probs: Mapping[str, float], has_answer: Mapping[str, bool]
) -> tuple[float, float]:
    """The best score, in percent, over all thresholds on `na_probs`, and its threshold."""
    score: float = sum(not has for has in has_answer.values())
    best, threshold = score, 0.0
    for qas_id in sorted(na_probs, key=na_probs.__getitem__):
        if has_answer[qas_id]:
            score += scores[qas_id]
        elif predictions.get(qas_id, "missing"):
            score -= 1
        if score > best:
            best, threshold = score, na_probs[qas_id]
    return 100.0 * best / len(scores), threshold


def _precision_recall(
    scores: Scores, na_probs: Mapping[str, float], has_answer: Mapping[str, bool]
) -> tuple[list[float], list[float], float]:
    """Precisions and recalls when questions are answered in order of `na_probs`; the average precision in percent."""
    total = sum(has_answer.values())
    ids = sorted(na_probs, key=na_probs.__getitem__)
    precisions, recalls = [1.0], [0.0]
    true_positives = average = 0.0
    for count, qas_id in enumerate(ids, 1):
        if has_answer[qas_id]:
            true_positives += scores[qas_id]
        if (
            count == len(ids) or na_probs[qas_id] != na_probs[ids[count]]
        ):  # a threshold exists between this question and the next
            precision, recall = true_positives / count, true_positives / total
            average += precision * (recall - recalls[-1])
            precisions.append(precision)
            recalls.append(recall)
    return precisions, recalls, 100.0 * average


def _draw_curve(precisions: Sequence[float], recalls: Sequence[float], directory: Path, name: str) -> None:
    from matplotlib.figure import Figure  # imported here, because it takes a second

    titles = {"exact": "exact match", "f1": "F1", "oracle": "oracle (whether a question has an answer)"}
    figure = Figure()
    axes = figure.add_subplot(
        xlabel="Recall",
        ylabel="Precision",
        xlim=(0, 1.05),
        ylim=(0, 1.05),
        title=f"Precision and recall, {titles[name]}",
    )
    axes.step(recalls, precisions, where="post")
    axes.fill_between(recalls, precisions, step="post", alpha=0.2)
    figure.savefig(directory / f"pr_{name}.png")


def _draw_histogram(values: Sequence[float], directory: Path, name: str) -> None:
    from matplotlib.figure import Figure

    probabilities = min(values) >= 0 and max(values) <= 1
    figure = Figure()
    axes = figure.add_subplot(xlabel="no-answer score", ylabel="share of questions", title=f"No-answer scores: {name}")
    axes.hist(values, bins=20, weights=[1 / len(values)] * len(values), range=(0.0, 1.0) if probabilities else None)
    figure.savefig(directory / f"na_prob_hist_{name}.png")


# ---------------------------------------------------------------------------------------------------------------------
# The command


def read_id_map(path: str | Path) -> dict[str, Any]:
    """Read a JSON object {question id: prediction or probability}; raises UserError for anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must contain one JSON object that maps question ids to values.")
    return content


def main() -> None:
    """Score a file of predictions. The arguments are those of the official scripts."""
    parser = argparse.ArgumentParser("python -m evaluation.squad", description="Official SQuAD scores, v1.1 and v2.0.")
    parser.add_argument("data_file", metavar="DATASET.json", help="a SQuAD file with the correct answers")
    parser.add_argument("pred_file", metavar="PREDICTIONS.json", help="JSON object that maps question ids to answers")
    parser.add_argument(
        "-n", "--na-prob-file", metavar="NA_PROB.json", help="v2.0: maps question ids to the probability of no answer"
    )
    parser.add_argument(
        "-t",
        "--na-prob-thresh",
        type=float,
        default=1.0,
        help='v2.0: above this probability the prediction is "" (default: 1.0)',
    )
    parser.add_argument("-p", "--out-image-dir", metavar="DIR", help="v2.0: draw precision-recall curves into DIR")
    parser.add_argument("-o", "--out-file", metavar="EVAL.json", help="write the scores here, not to standard output")
    parser.add_argument("-v", "--verbose", action="store_true", help="accepted for compatibility; has no effect")
    arguments = parser.parse_args()
    articles = read_squad_json(arguments.data_file, answers_only=True)
    na_probs = read_id_map(arguments.na_prob_file) if arguments.na_prob_file else None
    if arguments.out_image_dir and na_probs is None:
        warn("--out-image-dir draws nothing without --na-prob-file.")
    result = evaluate(
        articles,
        read_id_map(arguments.pred_file),
        na_probs=na_probs,
        na_prob_thresh=arguments.na_prob_thresh,
        out_image_dir=arguments.out_image_dir,
    )
    text = json.dumps(result, indent=2 if is_version_2(articles) else None)
    if arguments.out_file:
        try:
            Path(arguments.out_file).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out-file {arguments.out_file} cannot be written: {error.strerror}.") from None
    else:
        print(text, file=sys.stdout)


if __name__ == "__main__":
    run(main)
