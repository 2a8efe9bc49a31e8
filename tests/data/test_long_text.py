"""Every way to read a text that does not fit, against a plain implementation."""

from pathlib import Path

import numpy as np
import pytest

from conversion.tokenizer_files import Rules, Vocabulary
from data.classification import LabelLoss, TextExamples, TextRecords
from data.long_text import cut, mean_by_row

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(60))]
VOCABULARY = Vocabulary(Path("vocab.txt"), tuple(TOKENS), Rules())


def plainly(tokens, longest, how):
    """The records of one text."""
    excess = len(tokens) - longest
    if excess <= 0:
        return [tokens]
    if how == "truncate_tail":
        return [tokens[:longest]]
    if how == "truncate_head":
        return [tokens[-longest:]]
    if how == "head_tail":
        head = -(-longest // 4)
        return [tokens[:head] + tokens[len(tokens) - longest + head :]]
    step = longest - longest // 4
    starts = [*range(0, excess, step), excess]
    return [tokens[start : start + longest] for start in starts]


def read(texts, how, length=13, loss=LabelLoss(), labels=None):  # noqa: B008
    columns = tuple([" ".join(tokens) for tokens in column] for column in texts)
    examples = TextExamples(Path("a"), tuple(range(2, 2 + len(texts[0]))), columns, labels)
    records = TextRecords(examples, VOCABULARY, max_seq_length=length, long_text=how, loss=loss)
    return records, records.read(np.arange(len(records)))


@pytest.mark.parametrize("how", ["truncate_tail", "truncate_head", "head_tail", "windows"])
def test_single_texts(how):
    texts = [[f"w{n}" for n in range(count)] for count in (1, 11, 12, 20, 37, 60)]
    records, batch = read([texts], how)
    found = [
        [TOKENS[i] for i in ids[:length]]
        for ids, length in zip(batch["input_ids"], batch["input_mask"].sum(1), strict=True)
    ]
    expected = [(row, part) for row, tokens in enumerate(texts) for part in plainly(tokens, 11, how)]
    assert found == [["[CLS]", *part, "[SEP]"] for _, part in expected]
    assert records.row.tolist() == [row for row, _ in expected]
    assert records.location(len(records) - 1) == "a line 7"


def test_windows_of_pairs_cover_both_texts():
    first, second = [[f"w{n}" for n in range(3)]], [[f"w{n}" for n in range(10, 47)]]
    _, batch = read([first, second], "windows")
    rows = [[TOKENS[i] for i in ids] for ids in batch["input_ids"]]
    assert all(row[:5] == ["[CLS]", "w0", "w1", "w2", "[SEP]"] and row[-1] == "[SEP]" for row in rows)
    assert {token for row in rows for token in row[5:-1]} == set(second[0])
    assert (batch["segment_ids"] == [[0] * 5 + [1] * 8] * len(rows)).all()


def test_a_text_weighs_the_same_however_many_windows_it_has():
    labels = np.array([1, 0], np.int32)
    records, batch = read([[["w1"] * 30, ["w2"]]], "windows", loss=LabelLoss(np.array([2.0, 6.0])), labels=labels)
    assert records.row.tolist() == [0, 0, 0, 0, 1]
    np.testing.assert_allclose(batch["label_weights"][:, 0], [1.5] * 4 + [2])
    assert batch["label_ids"][:, 0].tolist() == [1] * 4 + [0]
    assert records.label_features == ("label_ids", "label_weights")
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_allclose(mean_by_row(values, records.row), [[3, 4], [8, 9]])


def test_a_very_long_text_needs_no_more_than_its_windows():
    cuts = cut(np.array([[10_000, 3]]), 510, "windows")
    assert cuts.row.tolist() == [0] * 26 + [1]
    assert cuts.tokens(0, 25)[[0, -1]].tolist() == [9490, 9999]
