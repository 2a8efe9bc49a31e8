"""Labels of a table: guessed kinds, order, encodings, held-out rows, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from data.classification import balanced_weights
from data.labels import NUMBER, SEVERAL, SINGLE, Labels, guess_problem_type
from data.splitting import split
from data.tables import Table
from utils.errors import UserError


def table(values):
    return Table(Path("a.csv"), {"label": values}, tuple(range(2, 2 + len(values))))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "b"], SINGLE),
        (["0", "1", "-1"], SINGLE),
        (["0.5", "1", "nan"], NUMBER),
        ([1, 2], SINGLE),
        ([1.5, 2], NUMBER),
        (["1.5", "b"], SINGLE),
        ([["a"], []], SEVERAL),
    ],
)
def test_the_problem_type_is_guessed(values, expected):
    assert guess_problem_type(values) == expected


def test_labels_are_sorted_whole_numbers_by_value():
    values = ["10", "9", "10", "9", "-1", "-1"]
    labels = Labels.of(table(values), "label", SINGLE, "|")
    assert labels.names == ("-1", "9", "10")
    assert labels.encode(table(values)).tolist() == [2, 1, 2, 1, 0, 0]
    assert Labels.of(table(["b", "a", "b", "a"]), "label", SINGLE, "|").names == ("a", "b")


@pytest.mark.parametrize("values", [["a|c", "", "c | a"], [["a", "c"], [], ["c", "a", "a"]]])
def test_several_labels_joined_or_as_lists(values):
    labels = Labels.of(table(values), "label", SEVERAL, "|")
    assert labels.names == ("a", "c")
    assert labels.encode(table(values)).tolist() == [[1, 1], [0, 0], [1, 1]]


def test_numbers():
    labels = Labels.of(table(["1", "2.5"]), "label", NUMBER, "|")
    assert labels.names == ("score",) and labels.encode(table(["1", 2.5])).tolist() == [1, 2.5]
    for bad in ("nan", "inf", "1e300", "x", None, True):
        with pytest.raises(UserError, match=r"a\.csv row 2 \(line 3\) has the score .* not a finite number"):
            labels.encode(table(["1", bad]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b", "a"], r"row 2 \(line 3\) has the only example of the label 'b'"),
        (["a", "a"], "has only the label 'a' in 'label'"),
        (["a", "", "a"], r"row 2 \(line 3\) has no label"),
        (["a", ["b"]], r"row 2 \(line 3\) has the label \[\"b\"\]: a list of labels needs --problem_type multi_label"),
    ],
)
def test_what_is_refused_in_training(values, message):
    with pytest.raises(UserError, match=message):
        Labels.of(table(values), "label", SINGLE, "|")


def test_an_unknown_label_is_refused():
    labels = Labels.of(table(["a", "b", "a", "b"]), "label", SINGLE, "|")
    with pytest.raises(UserError, match=r"row 2 \(line 3\) has the label 'c', which the training data lacks.*a, b"):
        labels.encode(table(["a", "c"]))


@pytest.mark.parametrize("value", [["a", None], ["a", ["b"]]])
def test_a_list_of_labels_holds_texts_and_numbers(value):
    with pytest.raises(UserError, match=r"row 2 \(line 3\) has the labels .*: write each label as a text"):
        Labels.of(table([["a"], value]), "label", SEVERAL, "|")


def test_balanced_weights_equal_scikit_learns():
    labels = np.random.default_rng(1).choice(4, 101, p=[0.6, 0.25, 0.1, 0.05]).astype(np.int32)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 4), expected)
    several = (np.random.default_rng(2).random((50, 3)) < [0.1, 0.5, 0.9]).astype(np.float32)
    np.testing.assert_allclose(balanced_weights(several, 3), (50 - several.sum(0)) / several.sum(0))


def test_held_out_rows_are_stratified_and_seeded():
    classes = ["a"] * 40 + ["b"] * 20 + ["c"] * 2
    rows = Table(Path("a.csv"), {"label": classes, "n": list(range(62))}, tuple(range(62)))
    kept, held = split(rows, 0.25, 7, classes)
    assert [held.columns["label"].count(name) for name in "abc"] == [10, 5, 0]  # 0.5 is rounded to even
    assert sorted(kept.columns["n"] + held.columns["n"]) == list(range(62))
    assert held.columns["n"] == sorted(held.columns["n"]) == split(rows, 0.25, 7, classes)[1].columns["n"]
    assert held.location(0) == f"a.csv row {held.columns['n'][0] + 1} (line {held.columns['n'][0]})"
    assert held.columns["n"] != split(rows, 0.25, 8, classes)[1].columns["n"]
    assert [split(rows, 0.9, 1, classes)[0].columns["label"].count(name) for name in "abc"] == [4, 2, 1]
    with pytest.raises(UserError, match="is less than one row"):
        split(rows.first(3), 0.1, 1)
