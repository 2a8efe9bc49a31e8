"""Chinese whole words: the groups of the reference code, and the masks that they lead to."""

import numpy as np
import pytest

from configs.cli import parse
from configs.prepare import PretrainingDataConfig
from data.ofrecord import open_records
from data.preparation.pretraining import prepare
from data.preparation.segmentation import Segmentation, WordMarks, continued
from data.tokenization import BulkTokenizer
from utils.errors import UserError

TEXT = "使用语言模型来预测下一个词的probability。"
SEGMENTED = "使用 语言 模型 来 预测 下 一个 词 的 probability 。"
CHARACTERS = sorted({character for character in TEXT if ord(character) > 0x3400})
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pro", "##ba", "##bility", "。", *CHARACTERS]
IDS = {token: number for number, token in enumerate(VOCAB)}


def marked(tmp_path, sentences, segmented):
    """The tokens of the sentences, with ## before those that continue a word."""
    file = tmp_path / "words.txt"
    file.write_text("\n".join(segmented) + "\n", encoding="utf-8")
    ids, counts = BulkTokenizer(IDS).encode(sentences)
    marks = WordMarks(Segmentation.indexed(file, tmp_path), IDS)(sentences, ids, counts)
    tokens = [f"##{VOCAB[number]}" if mark else VOCAB[number] for number, mark in zip(ids, marks, strict=True)]
    return [" ".join(part) for part in np.split(np.array(tokens), np.cumsum(counts)[:-1])]


def test_the_example_of_the_reference(tmp_path):
    (found,) = marked(tmp_path, [TEXT], [SEGMENTED])
    assert found == "使 ##用 语 ##言 模 ##型 来 预 ##测 下 一 ##个 词 的 pro ##ba ##bility 。"


def test_sentences_are_found_in_any_order(tmp_path):
    segmented = ["模型 模", "语言 模型", "预测 一个 词", "用 语言", "语 言 模型"]
    found = marked(tmp_path, ["一", "预测一个词", "probability", "语言模型", "模 型模"], segmented)
    # Of two lines with the same text the first counts, and spaces of the input do not matter.
    assert found == ["一", "预 ##测 一 ##个 词", "pro ##ba ##bility", "语 ##言 模 ##型", "模 ##型 模"]


def test_words_with_other_characters_and_unknown_ones_are_not_grouped(tmp_path):
    assert marked(tmp_path, ["词a语言，龘言"], ["词a 语言 ， 龘言"]) == ["词 [UNK] 语 ##言 [UNK] [UNK] 言"]


@pytest.mark.parametrize(
    ("characters", "words", "places"),
    [
        ("语言模型", {"语言", "语言模型"}, [1, 2, 3]),  # the longest
        ("一一个", {"一一", "一个"}, [1]),  # from left to right
        ("语 言", {"语言"}, []),
        ("", {"语言"}, []),
        ("语言", set(), []),
    ],
)
def test_places_that_continue_a_word(characters, words, places):
    assert continued(characters, words) == places


@pytest.fixture
def flags(tmp_path):
    """A function that returns the flags for a text, segmented as given."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text(f"{TEXT}\n\n{TEXT}\n", encoding="utf-8")

    def make(segmented, *more):
        (tmp_path / "words.txt").write_text(segmented, encoding="utf-8")
        words = ["--input_file", tmp_path / "text.txt", "--vocab_file", tmp_path / "vocab.txt", "--num_shards", 1]
        words += ["--output_dir", tmp_path / "out", "--segmentation_file", tmp_path / "words.txt", "--num_workers", 1]
        words += ["--objective", "none", "--max_seq_length", 23, "--dupe_factor", 40, "--masked_lm_prob", 0.25, *more]
        return [str(word) for word in words]

    return make


def test_masks_cover_whole_words_and_leave_no_marks(flags, tmp_path, capsys):
    config = parse(PretrainingDataConfig, flags(SEGMENTED, "--do_whole_word_mask", "--short_seq_prob", 0))
    prepare(config)
    records = open_records(tmp_path / "out")
    batch = records.read(np.arange(len(records)))
    words = [[1, 2], [3, 4], [5, 6], [7], [8, 9], [10], [11, 12], [13], [14], [15, 16, 17], [18]]
    seen = set()
    for row in range(len(records)):
        predicted = batch["masked_lm_positions"][row][batch["masked_lm_weights"][row] > 0].tolist()
        chosen = [word for word in words if set(word) <= set(predicted)]
        assert sorted(place for word in chosen for place in word) == predicted
        seen |= {word[0] for word in chosen}
        restored = batch["input_ids"][row].copy()
        restored[predicted] = batch["masked_lm_ids"][row][: len(predicted)]
        assert [VOCAB[number] for number in restored[1:15]] == list(TEXT[:14])
    assert seen == {word[0] for word in words} and batch["input_ids"].max() < len(VOCAB)
    prepare(config)
    assert f"{tmp_path / 'out'} is already complete" in capsys.readouterr().out
    (tmp_path / "words.txt").write_text(f"{SEGMENTED}\n", encoding="utf-8")
    with pytest.raises(UserError, match="results of another input"):
        prepare(config)


@pytest.mark.parametrize(
    ("segmented", "more", "message"),
    [
        (
            "语言 模型",
            ("--do_whole_word_mask",),
            "lacks the sentence '使用语言模型来预测下一个词的prob",
        ),
        ("", ("--do_whole_word_mask",), "words.txt is empty"),
        (SEGMENTED, (), "pass --do_whole_word_mask and --masking static"),
        (SEGMENTED, ("--do_whole_word_mask", "--masking", "dynamic"), "pass --do_whole_word_mask and --masking static"),
        (SEGMENTED, ("--do_whole_word_mask", "--segmentation_file", "missing"), "missing is not a file"),
    ],
)
def test_what_does_not_fit(flags, segmented, more, message):
    with pytest.raises(UserError, match=message):
        prepare(parse(PretrainingDataConfig, flags(segmented, *more)))
