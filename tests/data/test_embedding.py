"""Files of pairs, triples, scored pairs and sentences: what is guessed, what is read, what is refused."""

import gzip

import numpy as np
import pytest

from conversion.tokenizer_files import read_vocabulary
from data.embedding import GroupRecords, read_groups, read_identified, read_relevance
from utils.errors import UserError


@pytest.fixture
def vocabulary(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"]) + "\n")
    return read_vocabulary(file)


def write(directory, name, text):
    (directory / name).write_text(text)
    return directory / name


@pytest.mark.parametrize(
    ("name", "text", "names", "scores"),
    [
        ("pairs.csv", 'question,answer\na b,"c, d"\n', ("question", "answer"), None),
        ("triples.tsv", "anchor\tpositive\tnegative\na\tb\tc\n", ("anchor", "positive", "negative"), None),
        ("scored.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 2}\n', ("sentence1", "sentence2"), [0.5]),
        ("numbered.csv", "id,text\n7,a b\n", ("text",), None),
        ("plain.txt", "a b\n\nc\n", ("sentence",), None),
    ],
)
def test_columns_are_guessed(tmp_path, name, text, names, scores):
    groups = read_groups(write(tmp_path, name, text), max_score=4)
    assert groups.names == names
    assert (groups.scores.tolist() if groups.scores is not None else None) == scores


def test_named_columns_and_gzip(tmp_path):
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as file:
        file.write("x\ty\tz\trank\na\tb\tc\t1\nd\te\tf\t-1\n")
    groups = read_groups(tmp_path / "a.tsv.gz", text_columns=("z", "x"), score_column="rank", most_rows=1)
    assert groups.texts == (["c"], ["a"]) and groups.scores.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "s1,s2,score\na,b,nan\n", "a.csv row 1 .line 2.: 'score' is 'nan', not a number"),
        ("a.csv", "s1,s2,score\na,b,1\na,b,x\n", "a.csv row 2 .line 3.: 'score' is 'x', not a number"),
        ("a.csv", "s1,s2\na, \n", "row 1 .line 2.: 's2' is empty"),
        ("a.csv", "s1,s2,s3,score\na,b,c,1\n", "the text columns 's1', 's2', 's3': set the two"),
        ("a.jsonl", '{"text": 3}\n', "no text column"),
        ("a.txt", "\n", "contains no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read_groups(write(tmp_path, name, text))


def test_scores_out_of_range_are_named(tmp_path):
    groups = read_groups(write(tmp_path, "a.csv", "s1,s2,score\na,b,-4\na,b,5\n"), max_score=4)
    with pytest.raises(UserError, match=r"row 2 .line 3.: the score divided by --max_score is 1.25"):
        groups.check_scores(-1)
    with pytest.raises(UserError, match=r"row 1 .line 2.: .* is -1, not a number from 0 to 1"):
        groups.check_scores(0)


def test_a_missing_column_is_answered_with_the_nearest(tmp_path):
    file = write(tmp_path, "a.csv", "sentence1,sentence2\na,b\n")
    with pytest.raises(UserError, match=r"no column 'sentence_1'.*'sentence1'"):
        read_groups(file, text_columns=("sentence_1", "sentence2"))


@pytest.mark.parametrize("length", [5, 11])
def test_records_hold_every_text_cut_to_fit(tmp_path, vocabulary, length):
    groups = read_groups(write(tmp_path, "a.csv", "x,y\na b c d,a\nb,c d e f g\nc c c c c c c c c c,d\n"))
    records = GroupRecords(groups, vocabulary, max_seq_length=length)
    batch = records.read(np.array([2, 0, 1]))
    assert batch["input_ids"].shape == (3, 2, length) and "scores" not in batch
    for row, index in enumerate((2, 0, 1)):
        for text in range(2):
            words = groups.texts[text][index].split()[: length - 2]
            ids = [2, *(5 + "abcdefg".index(word) for word in words), 3]
            assert batch["input_ids"][row, text].tolist() == ids + [0] * (length - len(ids))
            assert batch["input_mask"][row, text].tolist() == [1] * len(ids) + [0] * (length - len(ids))
    assert records.lengths.tolist() == [min(6, length), min(7, length), min(12, length)]
    assert records.location(1).endswith("a.csv row 2 (line 3)")


def test_a_retrieval_set(tmp_path):
    corpus = write(
        tmp_path, "corpus.jsonl", '{"_id": "d1", "title": "t", "text": "a"}\n{"_id": "d2", "title": "", "text": "b"}\n'
    )
    assert read_identified(corpus, None, "--corpus_file") == {"d1": "t a", "d2": "b"}
    qrels = write(tmp_path, "qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n")
    assert read_relevance(qrels, None) == {"q1": {"d1": 2.0}, "q2": {"d2": 1.0}}
    twice = write(tmp_path, "twice.csv", "_id,text\n1,a\n1,b\n")
    with pytest.raises(UserError, match=r"row 2 .line 3. has the id '1' of an earlier row"):
        read_identified(twice, None, "--corpus_file")
