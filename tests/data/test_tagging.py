"""Tagged sentences: formats, schemes, windows, records, and what is refused."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from conversion.tokenizer_files import Rules, Vocabulary
from data.tag_schemes import SchemeError, detect_scheme, to_iob2
from data.tagging import TaggedSentences, TagRecords, best_windows, read_tagged, tag_names, windows
from utils.errors import UserError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ann", "##a", "saw", "rome", "##s", "."]
VOCABULARY = Vocabulary(Path("vocab.txt"), tuple(TOKENS), Rules())
IOB2 = ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "I-LOC", "I-LOC", "B-PER"]
SAME = {
    "iob1": ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-LOC", "I-LOC", "I-PER"],
    "iob2": IOB2,
    "bioes": ["B-PER", "E-PER", "S-PER", "O", "B-LOC", "I-LOC", "E-LOC", "S-PER"],
}


@pytest.mark.parametrize("scheme", SAME)
def test_every_scheme_is_detected_and_becomes_iob2(scheme):
    assert detect_scheme([["O"], SAME[scheme]]) == scheme
    assert to_iob2(SAME[scheme], scheme) == IOB2


def test_bilou_and_tags_without_prefixes():
    bilou = ["B-PER", "L-PER", "U-PER", "O", "B-LOC", "I-LOC", "L-LOC", "U-PER"]
    assert detect_scheme([bilou]) == "bioes" and to_iob2(bilou, "bioes") == IOB2
    assert detect_scheme([["NN", "VB", "-LRB-", "."]]) == "none"


@pytest.mark.parametrize(
    ("tags", "word", "message"),
    [
        (["B-PER", "NN"], 1, "the tag 'NN' has no prefix"),
        (["B-A", "I-B", "O", "B-B"], 1, "'I-B' cannot follow 'B-A'.*neither IOB1, IOB2 nor BIOES"),
        (["B-A", "O", "S-A"], 1, "'O' cannot follow 'B-A'"),
        (["S-A", "B-A"], 1, "'B-A' cannot be the last one"),
    ],
)
def test_tags_that_follow_no_scheme(tags, word, message):
    with pytest.raises(SchemeError, match=message) as caught:
        detect_scheme([["O"], tags])
    assert (caught.value.sentence, caught.value.word) == (1, word)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_conll_2003(tmp_path):
    text = "-DOCSTART- -X- -X- O\n\nAnna NNP B-NP I-PER\nsaw VBD B-VP O\r\n\n\n# # # O\n. . O O\n"
    sentences = read_tagged(write(tmp_path / "a.txt", text))
    assert sentences.tokens == [["Anna", "saw"], ["#", "."]]
    assert sentences.tags == [["I-PER", "O"], ["O", "O"]]
    assert sentences.location(1, 1).endswith("a.txt row 2 (line 8)")
    assert read_tagged(tmp_path / "a.txt", tag_column="2").tags == [["NNP", "VBD"], ["#", "."]]
    assert read_tagged(tmp_path / "a.txt", tagged=False).tags is None


def test_conll_u_has_comments_and_tabs(tmp_path):
    text = "# text = New York\n1\tNew York\tPROPN\n2\t.\tPUNCT\n"
    sentences = read_tagged(write(tmp_path / "a.conllu", text), "2", "-1")
    assert (sentences.tokens, sentences.tags) == ([["New York", "."]], [["PROPN", "PUNCT"]])


def test_conll_u_skips_contractions_and_words_that_are_not_in_the_text(tmp_path):
    rows = [("1-2", "du", "_"), ("1", "de", "ADP"), ("2", "le", "DET"), ("2.1", "est", "AUX"), ("3", "pain", "NOUN")]
    text = "".join("\t".join([number, word, "_", tag, *"______"]) + "\n" for number, word, tag in rows)
    (tmp_path / "a.conllu").write_text("# text = du pain\n" + text)
    sentences = read_tagged(tmp_path / "a.conllu", "2", "4")
    assert (sentences.tokens, sentences.tags) == ([["de", "le", "pain"]], [["ADP", "DET", "NOUN"]])


def test_words_may_be_number_signs_and_hold_no_break_spaces(tmp_path):
    (tmp_path / "a.conll").write_text("# O\n20\u00a0000  B-NUM \n", "utf-8")
    sentences = read_tagged(tmp_path / "a.conll")
    assert (sentences.tokens, sentences.tags) == ([["#", "20\u00a0000"]], [["O", "B-NUM"]])


def test_json_lines(tmp_path):
    rows = [{"tokens": ["Anna", "."], "tags": ["B-PER", "O"]}, {"tokens": ["a"], "tags": ["O"]}]
    sentences = read_tagged(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert sentences.tokens == [["Anna", "."], ["a"]] and tag_names([sentences]) == ("O", "B-PER")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "a B-X\nb\n", r"a\.txt row 1 \(line 2\) has 1 columns, not 2"),
        ("a.txt", "a\nb\n", "--tag_column -1 is the column of the words"),
        ("a.txt", "\n\n", "contains no sentences"),
        ("a.txt", "a\tO\nb\t\n", r"row 1 \(line 2\) has no tag"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', r"row 1 \(line 1\) has 2 tokens but 1 tags"),
        ("a.jsonl", '{"tokens": "a b", "tags": ["O"]}', "'tokens' is not a list of non-empty words"),
        (
            "a.jsonl",
            '{"tokens": ["a"], "tag": ["O"]}',
            r"no column 'tags' .from --tag_column.: did you mean 'tag'",
        ),
    ],
)
def test_damaged_files(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read_tagged(write(tmp_path / name, text))


def test_columns_that_do_not_exist(tmp_path):
    path = write(tmp_path / "a.txt", "a O\n")
    for column in ("3", "-3", "0"):
        with pytest.raises(UserError, match=f"--tag_column {column} does not exist: .* has the columns 1 to 2"):
            read_tagged(path, tag_column=column)
    with pytest.raises(UserError, match="--tag_column 'ner' is not a column number"):
        read_tagged(path, tag_column="ner")


def test_windows_overlap_and_cover_everything():
    random = np.random.default_rng(4)
    for _ in range(200):
        lengths = random.integers(1, 6, random.integers(1, 30)).tolist()
        most, stride = int(random.integers(5, 14)), int(random.integers(1, 14))
        spans = list(windows(lengths, most, stride))
        assert all(sum(lengths[start:end]) <= most for start, end in spans)
        assert spans[0][0] == 0 and spans[-1][1] == len(lengths)
        pairs = pairwise(spans)
        assert all(a[0] < b[0] <= a[1] < b[1] or a[1] == b[0] for a, b in pairs)
        for item, window in enumerate(best_windows(spans, len(lengths))):
            start, end = spans[window]
            assert start <= item < end


def test_first_pieces_carry_the_tags_each_word_in_one_window():
    tags = [["B-PER", "O", "B-LOC", "O"], ["O"]]
    sentences = TaggedSentences(Path("a"), [["anna", "saw", "romes", "."], ["\u200b"]], tags, [[1, 2, 3, 4], [6]])
    names = tag_names([sentences])
    assert names == ("O", "B-LOC", "B-PER")
    records = TagRecords(sentences, names, VOCABULARY, max_seq_length=7, stride=3)
    batch = records.read(np.arange(len(records)))
    words = [[TOKENS[i] for i in row] for row in batch["input_ids"]]
    assert words[0] == ["[CLS]", "ann", "##a", "saw", "rome", "##s", "[SEP]"]
    assert words[1] == ["[CLS]", "rome", "##s", ".", "[SEP]", "[PAD]", "[PAD]"]
    assert words[2][:3] == ["[CLS]", "[UNK]", "[SEP]"]  # a word without pieces is judged too
    assert batch["label_weights"].sum() == 5
    assert records.words.tolist() == [[0, 1], [0, 3], [0, 4], [1, 3], [2, 1]]
    labels = batch["label_ids"][records.words[:, 0], records.words[:, 1]]
    assert [names[i] for i in labels] == ["B-PER", "O", "B-LOC", "O", "O"]
    assert records.lengths.tolist() == batch["input_mask"].sum(axis=1).tolist()
    with pytest.raises(UserError, match=r"a row 1 \(line 3\) has the tag 'B-LOC', which the training data lacks"):
        TagRecords(sentences, ("O", "B-PER"), VOCABULARY, max_seq_length=7, stride=3)
