"""GLUE's files: their columns and labels, what is refused, records, and leaderboard files."""

from pathlib import Path

import numpy as np
import pytest

from conversion.tokenizer_files import Rules, Vocabulary
from data.classification import TextRecords
from data.glue import GLUE_TASKS, read_examples, submission, task_directory
from data.long_text import fitting_lengths
from utils.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "walks", "dog", "##s", "no"]
VOCABULARY = Vocabulary(Path("vocab.txt"), tuple(WORDS), Rules())
HEADERS = {
    "cola": None,
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "sst2": "sentence\tlabel",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "mnli": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
}


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path.parent


def row(name, label):
    columns = (HEADERS[name] or "source\tlabel\tmark\tsentence").split("\t")
    task = GLUE_TASKS[name]
    values = {task.label_column: label, **{c: f"text {i}" for i, c in enumerate(task.text_columns)}}
    return "\t".join(values.get(column, "x") for column in columns)


@pytest.mark.parametrize("name", HEADERS)
def test_every_task_finds_its_columns(tmp_path, name):
    task = GLUE_TASKS[name]
    labels = task.labels or ("0.0", "2.5", "5.0")
    header = [HEADERS[name]] if HEADERS[name] else []
    directory = write(tmp_path / task.directory / "train.tsv", *header, *(row(name, label) for label in labels))
    assert task_directory(tmp_path, task) == task_directory(directory, task) == directory
    examples = read_examples(directory, task, "train")
    expected = np.arange(len(labels)) if task.labels else [0, 2.5, 5]
    np.testing.assert_array_equal(examples.labels, expected)
    assert examples.texts == tuple([f"text {i}"] * len(labels) for i in range(len(task.text_columns)))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADERS["rte"], "0\ta\tb\tentailment", "1\ta\tb\tc\tentailment"], r"train.tsv line 3 has 5 fields, not 4"),
        ([HEADERS["rte"], "0\ta\tentailment"], "contains no rows"),
        ([HEADERS["rte"], "0\ta\tb\tmaybe"], r"train.tsv line 2 has the label 'maybe'"),
        (["index\tsentence1\tlabel"], "no column 'sentence2'"),
        ([HEADERS["rte"]], "contains no rows"),
    ],
)
def test_errors_name_file_and_line(tmp_path, lines, message):
    directory = write(tmp_path / "train.tsv", *lines)
    with pytest.raises(UserError, match=message):
        read_examples(directory, GLUE_TASKS["rte"], "train")


def test_rows_with_too_few_fields_are_skipped_and_counted(tmp_path, capsys):
    rows = ["0\ta\tb\tentailment", "1\ta\tentailment", "", "3\ta\tb\tnot_entailment"]
    directory = write(tmp_path / "train.tsv", HEADERS["rte"], *rows)
    examples = read_examples(directory, GLUE_TASKS["rte"], "train")
    assert examples.labels.tolist() == [0, 1] and examples.lines == (2, 5) and examples.first(1).lines == (2,)
    assert "2 of 4 rows have fewer than 4 fields and are skipped, the first in line 3" in capsys.readouterr().err
    records = TextRecords(examples, VOCABULARY, max_seq_length=8)
    assert records.location(1).endswith("train.tsv line 5")
    with pytest.raises(UserError, match="line 3 has 3 fields, not 4"):
        read_examples(directory, GLUE_TASKS["rte"], "train", strict=True)
    write(tmp_path / "test.tsv", "index\tsentence1\tsentence2", "0\ta\tb", "1\ta")
    with pytest.raises(UserError, match="line 3 has 2 fields, not 3"):
        read_examples(directory, GLUE_TASKS["rte"], "test")


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r\n\r\n \r\n"])
def test_byte_order_mark_line_ends_and_blank_lines_at_the_end(tmp_path, end, capsys):
    rows = "\r\n".join([HEADERS["sst2"], "a\rman \u2028 walks\t1", "no dogs\t0"])
    (tmp_path / "train.tsv").write_bytes(("\ufeff" + rows + end).encode())
    examples = read_examples(tmp_path, GLUE_TASKS["sst2"], "train")
    assert examples.texts == (["a\rman \u2028 walks", "no dogs"],) and examples.labels.tolist() == [1, 0]
    assert not capsys.readouterr().err


def test_missing_files_and_scores_out_of_range(tmp_path):
    with pytest.raises(UserError, match=r"train\.tsv cannot be read"):
        read_examples(tmp_path, GLUE_TASKS["rte"], "train")
    with pytest.raises(UserError, match="--data_dir"):
        task_directory(tmp_path / "nowhere", GLUE_TASKS["rte"])
    with pytest.raises(UserError, match=r"contains neither a directory RTE nor \.tsv files"):
        task_directory(tmp_path, GLUE_TASKS["rte"])
    cola = write(tmp_path / "CoLA/train.tsv", "a\t1\t\tA sentence.")
    with pytest.raises(UserError, match=r"--task_name all needs a directory for every task, but .*/CoLA/MRPC does not"):
        task_directory(cola, GLUE_TASKS["mrpc"], of_several=True)
    for score in ("5.1", "nan", "much"):
        directory = write(tmp_path / "train.tsv", HEADERS["stsb"], row("stsb", score))
        with pytest.raises(UserError, match=r"line 2 has the label"):
            read_examples(directory, GLUE_TASKS["stsb"], "train")


def test_quotes_are_text_and_test_sets_have_no_labels(tmp_path):
    directory = write(tmp_path / "test.tsv", "index\tsentence", '0\t"a man', "1\tno dogs")
    examples = read_examples(directory, GLUE_TASKS["cola"], "test")
    assert (examples.texts, examples.labels, examples.indices) == ((['"a man', "no dogs"],), None, ["0", "1"])


def test_pairs_are_cut_as_in_googles_code():
    rng = np.random.default_rng(4)
    counts, longest = rng.integers(1, 15, (2, 300)), 11
    mine = fitting_lengths(counts, longest)
    for column in range(300):
        a, b = counts[:, column]
        while a + b > longest:
            if a > b:
                a -= 1
            else:
                b -= 1
        assert mine[:, column].tolist() == [a, b]


def test_records(tmp_path):
    lines = [HEADERS["rte"], "0\ta man walks\tno dogs\tentailment", "1\ta\tno\tnot_entailment"]
    examples = read_examples(write(tmp_path / "train.tsv", *lines), GLUE_TASKS["rte"], "train")
    records = TextRecords(examples, VOCABULARY, max_seq_length=8)
    batch = records.read(np.array([1, 0]))
    words = [[WORDS[i] for i in ids] for ids in batch["input_ids"]]
    assert words[0] == ["[CLS]", "a", "[SEP]", "no", "[SEP]", "[PAD]", "[PAD]", "[PAD]"]
    assert words[1] == ["[CLS]", "a", "man", "walks", "[SEP]", "no", "dog", "[SEP]"]  # the tie is cut at B
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1]]
    assert batch["input_mask"].sum(axis=1).tolist() == [5, 8]
    assert batch["label_ids"].tolist() == [[1], [0]]
    assert records.location(1).endswith("train.tsv line 3")


def test_leaderboard_files():
    assert submission(np.array([1, 0]), GLUE_TASKS["rte"], ["0", "1"]) == (
        "index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    )
    assert submission(np.array([2.34567, -1.0, 7.0]), GLUE_TASKS["stsb"], ["0", "1", "2"]) == (
        "index\tprediction\n0\t2.346\n1\t0.000\n2\t5.000\n"
    )
    assert GLUE_TASKS["mnli"].submissions == {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}
