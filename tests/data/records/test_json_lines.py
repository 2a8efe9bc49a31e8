"""JSON lines of pretraining records: what they mean, there and back, and what is wrong with them."""

import json

import numpy as np
import pytest

from configs.cli import parse
from configs.prepare import InspectConfig, VerifyConfig
from data.preparation.inspection import inspect, verify
from data.records.features import pretraining_schema
from data.records.json_lines import encode_json_lines, open_json_lines
from data.sources import open_source, open_sources
from tests.conftest import PREDICTIONS, SEQ_LENGTH, pretraining_arrays
from tests.data.corpus import S, content, prepare_set, write_corpus
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("many_pieces")

GOOD = {
    "input_ids": [2, 9, 4, 3, 7, 3],
    "attention_mask": [1] * 6,
    "token_type_ids": [0, 0, 0, 0, 1, 1],
    "labels": [-100, -100, 8, -100, 7, -100],
    "next_sentence_label": 1,
}
SHORT = {
    "input_ids": [2, 4, 3],
    "attention_mask": [1, 1, 1],
    "token_type_ids": [0, 0, 0],
    "labels": [-100, 5, -100],
    "next_sentence_label": 0,
}


def write(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_a_line_means_what_it_says(tmp_path):
    path = write(tmp_path / "train_128.json", GOOD, "\n", json.dumps(SHORT, indent=None, separators=(",", ":")))
    source = open_source(path)
    batch = source.read(np.array([1, 0]))
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[2, 4, 3, 0, 0, 0], [2, 9, 4, 3, 7, 3]],
        "input_mask": [[1, 1, 1, 0, 0, 0], [1] * 6],
        "segment_ids": [[0] * 6, [0, 0, 0, 0, 1, 1]],
        "masked_lm_positions": [[1, 0], [2, 4]],
        "masked_lm_ids": [[5, 0], [8, 7]],
        "masked_lm_weights": [[1.0, 0.0], [1.0, 1.0]],
        "next_sentence_labels": [[0], [1]],
    }
    assert source.location(0).endswith("train_128.json line 1") and source.location(1).endswith("line 3")


@pytest.mark.parametrize("left_out", [(), ("next_sentence_labels",), ("masked_lm_ids", "next_sentence_labels")])
def test_written_lines_are_read_back(tmp_path, left_out):
    examples, schema = pretraining_arrays(23, seed=1), pretraining_schema(SEQ_LENGTH, PREDICTIONS)
    groups = {"masked_lm_ids": [name for name in schema if name.startswith("masked_lm_")]}
    for name in left_out:
        for each in groups.get(name, [name]):
            del schema[each], examples[each]
    data, offsets = encode_json_lines(examples, schema)
    assert len(offsets) == 24 and data[int(offsets[7]) :].startswith(b'{"input_ids": [')
    (tmp_path / "a.jsonl").write_bytes(data)
    source = open_source(tmp_path).resized(SEQ_LENGTH, PREDICTIONS)
    assert source.schema == schema
    for name, values in source.read(np.arange(23)).items():
        np.testing.assert_array_equal(values, examples[name], err_msg=name)


def test_the_files_of_a_directory_are_one_set(tmp_path):
    for name, row in (("a.jsonl", SHORT), ("b.jsonl", GOOD)):
        write(tmp_path / name, row)
    write(tmp_path / "other.txt", "not read")
    assert open_source(tmp_path).read(np.array([0, 1]))["input_mask"].sum(axis=1).tolist() == [3, 6]
    assert len(open_json_lines(tmp_path, parts=1)) == 1
    mixed = open_sources([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert mixed.schema["input_ids"] == ("int32", 6) and mixed.schema["masked_lm_ids"] == ("int32", 2)
    longer = open_sources([str(tmp_path / "a.jsonl")], seq_length=8, max_predictions_per_seq=5)
    assert longer.read(np.array([0]))["masked_lm_positions"].shape == (1, 5)
    with pytest.raises(UserError, match=r"--seq_length 5 is too small: .* has a record with 6 tokens"):
        open_sources([str(tmp_path)], seq_length=5)
    with pytest.raises(UserError, match="--max_predictions_per_seq 1 is too small"):
        open_sources([str(tmp_path)], max_predictions_per_seq=1)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "labels": [1, 2]}, "6 input_ids but 2 labels"),
        ({**GOOD, "token_type_ids": [0] * 7}, "6 input_ids but 7 token_type_ids"),
        ({name: values for name, values in GOOD.items() if name != "attention_mask"}, "no attention_mask"),
        ({**GOOD, "input_ids": "text"}, "input_ids is not a list of integers"),
        ({**GOOD, "input_ids": []}, "input_ids is not a list of integers"),
        ('{"input_ids": [1, 2\n', "not a JSON object"),
        ("[1, 2, 3]\n", "not a JSON object"),
        ("[" * 100_000 + "\n", "not a JSON object"),
    ],
)
def test_opening_a_file_reports_a_bad_line(tmp_path, row, words):
    with pytest.raises(
        UserError, match=r"train\.jsonl line 3 is not a pretraining record: it(s| has| is) .*"
    ) as caught:
        open_source(write(tmp_path / "train.jsonl", GOOD, SHORT, row, GOOD))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "input_ids": [1, 2, 3, 4, 5.5, 6]}, "input_ids is not a list of integers"),
        ({**GOOD, "input_ids": [1, 2, 3, 4, 5, 1 << 40]}, "input_ids is not a list of integers"),
        ({**GOOD, "next_sentence_label": "yes"}, "next_sentence_label is 'yes', not 0 or 1"),
        ({name: values for name, values in GOOD.items() if name != "labels"}, "no labels, unlike the first record"),
        ({name: values for name, values in GOOD.items() if name != "next_sentence_label"}, "no next_sentence_label"),
    ],
)
def test_using_a_line_reports_other_mistakes(tmp_path, row, words):
    source = open_source(write(tmp_path / "train.jsonl", GOOD, row, SHORT))
    assert source.read(np.array([0, 2]))["input_ids"].shape == (2, 6)
    with pytest.raises(UserError, match=r"train\.jsonl line 2 is corrupt: ") as caught:
        source.read(np.array([2, 1, 0]))
    assert words in str(caught.value)


def test_a_file_without_lines(tmp_path):
    with pytest.raises(UserError, match="contains no record"):
        open_source(write(tmp_path / "train.jsonl", "\n\n"))


@pytest.mark.usefixtures("many_pieces")
@pytest.mark.parametrize("more", [(), ("--objective", "sop", "--masking", "dynamic")])
def test_json_lines_and_ofrecord_hold_the_same_records(tmp_path, capsys, more):
    corpus = write_corpus(tmp_path / "in")
    lines = prepare_set(*corpus, tmp_path / "lines", "--output_format", "jsonl", *more)
    records, source = open_source(prepare_set(*corpus, tmp_path / "records", *more)), open_source(lines)
    assert [file.name for file in source.shards] == [f"part-0000{number}.jsonl" for number in range(4)]
    assert source.schema == records.schema and len(source) == len(records)
    expected = records.read(np.arange(len(records)))
    for name, values in source.read(np.arange(len(source))).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    inspect(parse(InspectConfig, ["--input_dir", str(lines)]))
    verify(parse(VerifyConfig, ["--input_dir", str(lines), "--num_workers", "1"]))
    assert "checksums match" in capsys.readouterr().out
    assert content(
        prepare_set(*corpus, tmp_path / "again", "--output_format", "jsonl", "--num_workers", 2, *more)
    ) == content(lines)
    for name in ("dataset.json", "offsets.u64"):
        (lines / name).unlink()
    one = str(lines / "part-00000.jsonl")
    for more_flags in ([], ["--report_dir", str(tmp_path / "report")]):
        inspect(parse(InspectConfig, ["--input_dir", one, "--num_workers", "1", *more_flags]))
    assert (tmp_path / "report/report.html").exists() and "pass --report_dir" in capsys.readouterr().out
    scanned = open_source(lines).resized(S, None)
    np.testing.assert_array_equal(scanned.read(np.arange(9))["input_ids"], expected["input_ids"][:9])
