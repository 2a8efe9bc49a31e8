"""Scores against an independent implementation of the rules of the two official scripts."""

import json
import re
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.squad import questions, read_squad_json
from evaluation.squad import evaluate, normalize_answer
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
PHRASES = [
    "the Cat",
    "cat",
    "A cat!",
    "",
    "the",
    "an  owl's 1895–1943",
    "owl",
    "Étienne (a.k.a. Bob)",
    "bob, the cat",
    "?!",
]


def dataset(v2, seed=0, count=53):
    rng = np.random.default_rng(seed)
    qas = []
    for i in range(count):
        texts = [str(t) for t in rng.choice([p for p in PHRASES if p], rng.integers(1, 4))]
        qa = {"id": f"q{i}", "question": "?", "answers": [{"text": t, "answer_start": 0} for t in texts]}
        if v2:
            qa["is_impossible"] = bool(rng.random() < 0.4)
            qa["answers"] = [] if qa["is_impossible"] else qa["answers"]
        qas.append(qa)
    return [
        {"paragraphs": [{"context": "x", "qas": qas[:20]}, {"context": "x", "qas": qas[20:30]}]},
        {"paragraphs": [{"context": "x", "qas": qas[30:]}]},
    ]


def answers(articles, seed=1):
    rng = np.random.default_rng(seed)
    ids = [qa["id"] for a in articles for p in a["paragraphs"] for qa in p["qas"]]
    rng.shuffle(ids)
    # Rounded, so that several questions share a threshold.
    return {i: str(rng.choice(PHRASES)) for i in ids}, {i: round(float(rng.random()), 1) for i in ids}


def official_normalized(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_f1(gold, predicted, v2):
    gold, predicted = official_normalized(gold).split(), official_normalized(predicted).split()
    if v2 and (not gold or not predicted):
        return int(gold == predicted)
    same = sum((Counter(gold) & Counter(predicted)).values())
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(predicted), 1.0 * same / len(gold)
    return (2 * precision * recall) / (precision + recall)


def official_v1(articles, predictions):
    f1 = exact_match = total = 0
    for article in articles:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                total += 1
                if qa["id"] not in predictions:
                    continue
                golds, predicted = [a["text"] for a in qa["answers"]], predictions[qa["id"]]
                exact_match += max(official_normalized(g) == official_normalized(predicted) for g in golds)
                f1 += max(official_f1(g, predicted, False) for g in golds)
    return {"exact_match": 100.0 * exact_match / total, "f1": 100.0 * f1 / total}


def official_v2(articles, predictions, na_probs=None, threshold=1.0, images=False):
    exact_raw, f1_raw, has_answer = {}, {}, {}
    for article in articles:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                has_answer[qa["id"]] = bool(qa["answers"])
                golds = [a["text"] for a in qa["answers"] if official_normalized(a["text"])] or [""]
                predicted = predictions[qa["id"]]
                exact_raw[qa["id"]] = max(int(official_normalized(g) == official_normalized(predicted)) for g in golds)
                f1_raw[qa["id"]] = max(official_f1(g, predicted, True) for g in golds)
    probs = na_probs if na_probs is not None else {i: 0.0 for i in predictions}

    def thresholded(scores):
        return {i: float(not has_answer[i]) if probs[i] > threshold else s for i, s in scores.items()}

    exact, f1 = thresholded(exact_raw), thresholded(f1_raw)
    result = {}
    for prefix, ids in (
        ("", list(exact)),
        ("HasAns_", [i for i in has_answer if has_answer[i]]),
        ("NoAns_", [i for i in has_answer if not has_answer[i]]),
    ):
        result[prefix + "exact"] = 100.0 * sum(exact[i] for i in ids) / len(ids)
        result[prefix + "f1"] = 100.0 * sum(f1[i] for i in ids) / len(ids)
        result[prefix + "total"] = len(ids)
    if na_probs is None:
        return result
    by_prob = sorted(na_probs, key=lambda i: na_probs[i])
    for name, scores in (("exact", exact_raw), ("f1", f1_raw)):
        current = sum(1 for i in has_answer if not has_answer[i])
        best, best_threshold = current, 0.0
        for i in by_prob:
            current += scores[i] if has_answer[i] else (-1 if predictions[i] else 0)
            if current > best:
                best, best_threshold = current, na_probs[i]
        result[f"best_{name}"] = 100.0 * best / len(scores)
        result[f"best_{name}_thresh"] = best_threshold
    oracle = {i: float(v) for i, v in has_answer.items()}
    for name, scores in (("exact", exact_raw), ("f1", f1_raw), ("oracle", oracle)) if images else ():
        true_positives, average, last_recall = 0.0, 0.0, 0.0
        for n, i in enumerate(by_prob):
            true_positives += scores[i] if has_answer[i] else 0
            if n == len(by_prob) - 1 or na_probs[i] != na_probs[by_prob[n + 1]]:
                recall = true_positives / float(sum(has_answer.values()))
                average += true_positives / float(n + 1) * (recall - last_recall)
                last_recall = recall
        result[f"pr_{name}_ap"] = 100.0 * average
    return result


@pytest.mark.parametrize("seed", range(5))
def test_v1_scores_equal_the_official_ones_in_every_digit(seed):
    articles = dataset(False, seed)
    predictions, _ = answers(articles, seed + 100)
    assert evaluate(articles, predictions) == official_v1(articles, predictions)
    for qas_id in ("q3", "q31"):
        del predictions[qas_id]
    assert evaluate(articles, predictions) == official_v1(articles, predictions)


@pytest.mark.parametrize("seed", range(5))
def test_v2_scores_equal_the_official_ones_in_every_digit(seed, tmp_path):
    articles = dataset(True, seed)
    predictions, na_probs = answers(articles, seed + 100)
    assert evaluate(articles, predictions) == official_v2(articles, predictions)
    assert evaluate(articles, predictions, na_probs=na_probs) == official_v2(articles, predictions, na_probs)
    mine = evaluate(articles, predictions, na_probs=na_probs, na_prob_thresh=0.5, out_image_dir=tmp_path / "images")
    theirs = official_v2(articles, predictions, na_probs, 0.5, images=True)
    assert mine == theirs and list(mine) == list(theirs)
    pictures = {"pr_exact", "pr_f1", "pr_oracle", "na_prob_hist_hasAns", "na_prob_hist_noAns"}
    assert {file.stem for file in (tmp_path / "images").glob("*.png")} == pictures


def test_a_v2_question_without_a_prediction_scores_0():
    articles = dataset(True)
    _, na_probs = answers(articles)
    right = {
        qa["id"]: max((a["text"] for a in qa["answers"]), key=lambda t: len(normalize_answer(t)), default="")
        for a in articles
        for p in a["paragraphs"]
        for qa in p["qas"]
    }
    assert evaluate(articles, right)["exact"] == 100.0
    del right["q0"], right["q1"]
    result = evaluate(articles, right, na_probs=na_probs)
    assert result["exact"] == pytest.approx(100 * 51 / 53) and result["total"] == 53


def test_answers_are_normalized_as_in_the_official_scripts():
    for text in (*PHRASES, "A\u00a0THE\tan", "theatre an-d", "İ ß the—a", "a_the_b"):
        assert normalize_answer(text) == official_normalized(text)


def write(tmp_path, **contents):
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))


def score(*arguments):
    command = [sys.executable, "-m", "evaluation.squad", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_command_prints_only_the_official_json(tmp_path):
    articles = dataset(True)
    predictions, na_probs = answers(articles)
    write(tmp_path, data={"version": "v2.0", "data": articles}, predictions=predictions, na=na_probs)
    files = [str(tmp_path / "data.json"), str(tmp_path / "predictions.json")]
    done = score(*files, "--na-prob-file", str(tmp_path / "na.json"), "--out-image-dir", str(tmp_path / "i"))
    assert done.returncode == 0
    assert done.stdout == json.dumps(official_v2(articles, predictions, na_probs, images=True), indent=2) + "\n"

    articles = dataset(False)
    predictions, _ = answers(articles)
    del predictions["q7"]
    write(tmp_path, data={"version": "1.1", "data": articles}, predictions=predictions)
    done = score(*files)
    assert done.stdout == json.dumps(official_v1(articles, predictions)) + "\n"
    assert "q7" in done.stderr


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"predictions": ["cat"]}, "one JSON object"),
        ({"predictions": {f"q{i}": 3 for i in range(53)}}, "q0"),
        ({"data": {"data": []}}, "no question"),
        (
            {"data": {"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "q"}]}]}]}},
            "data[0].paragraphs[0].qas[0]",
        ),
        ({"data": {"rows": []}}, "'data'"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, contents, words):
    articles = dataset(False)
    write(tmp_path, **({"data": {"data": articles}, "predictions": answers(articles)[0]} | contents))
    done = score(str(tmp_path / "data.json"), str(tmp_path / "predictions.json"))
    assert done.returncode == 2 and words in done.stderr and done.stderr.startswith("error: ")
    assert done.stdout == "" and done.stderr.count("\n") == 1


def test_probabilities_must_cover_the_questions_of_a_v2_data_set(tmp_path):
    articles = dataset(True)
    predictions, na_probs = answers(articles)
    with pytest.raises(UserError, match="--na-prob-file has no finite number for question q4"):
        evaluate(articles, predictions, na_probs={i: p for i, p in na_probs.items() if i != "q4"})
    with pytest.raises(UserError, match="--na-prob-file has no finite number for question q4"):
        evaluate(articles, predictions, na_probs=na_probs | {"q4": float("nan")})
    with pytest.raises(UserError, match=r"2\.0"):
        evaluate(dataset(False), predictions, na_probs=na_probs)
    write(tmp_path, broken={"data": articles})
    (tmp_path / "broken.json").write_text('{"data": [')
    with pytest.raises(UserError, match="is not JSON"):
        read_squad_json(tmp_path / "broken.json")


def test_a_missing_prediction_scores_0_whatever_its_no_answer_probability(tmp_path):
    articles = dataset(True)
    predictions, _ = answers(articles)
    unanswerable = next(q["id"] for q in questions(articles) if q["is_impossible"])
    del predictions[unanswerable]
    na_probs = dict.fromkeys((q["id"] for q in questions(articles)), 0.0) | {unanswerable: 4.0}
    assert evaluate(articles, predictions, na_probs=na_probs)["exact"] == evaluate(articles, predictions)["exact"]


def test_data_sets_without_questions_and_contexts_can_be_scored(tmp_path):
    for version_2 in (False, True):
        articles = dataset(version_2)
        predictions, _ = answers(articles)
        for question in questions(articles):
            question.pop("is_impossible", None)
            del question["question"]
            for answer in question["answers"]:
                answer.pop("answer_start", None)
        for article in articles:
            for paragraph in article["paragraphs"]:
                del paragraph["context"]
        write(tmp_path, data={"data": articles}, predictions=predictions)
        done = score(str(tmp_path / "data.json"), str(tmp_path / "predictions.json"), "-v")
        assert ("HasAns_exact" in done.stdout) == version_2 and done.returncode == 0


def test_unwritable_outputs_are_refused_without_a_traceback(tmp_path):
    articles = dataset(True)
    predictions, na_probs = answers(articles)
    write(tmp_path, data={"data": articles}, predictions=predictions, na_probs=na_probs)
    files = [str(tmp_path / "data.json"), str(tmp_path / "predictions.json")]
    for words in (["-o", "/dev/null/x"], ["-n", str(tmp_path / "na_probs.json"), "-p", str(tmp_path / "data.json")]):
        done = score(*files, *words)
        assert done.returncode == 2 and "Traceback" not in done.stderr
