"""`prepare_data.py vocab`."""

import json
import shutil
import subprocess
import sys

import pytest

from configs.cli import parse
from configs.prepare import VocabConfig
from data.preparation import vocabulary
from data.preparation.vocabulary import make_vocab
from data.text.spans import Span
from data.tokenization import load_vocab
from tests.data.corpus import content, prepare_set
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("many_pieces")


def test_vocabularies_are_the_same_every_time(tmp_path, corpus):
    text, _ = corpus
    command = [sys.executable, "prepare_data.py", "vocab", "--input_file", str(text), "--vocab_size", "101"]
    for name in ("a", "b"):  # in separate processes, because their hash tables differ
        subprocess.run([*command, "--vocab_file", str(tmp_path / name)], check=True, capture_output=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    vocab = load_vocab(tmp_path / "a")
    assert list(vocab)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(vocab) <= 101
    assert {"wa", "wab"[0], "##a"} <= set(vocab)


def test_an_interrupted_vocabulary_is_continued(tmp_path, corpus, monkeypatch):
    text, _ = corpus
    monkeypatch.setattr(vocabulary, "_PIECE_BYTES", 300)
    flags = ["--input_file", str(text), "--vocab_size", "101", "--vocab_file"]

    def make(name, workers):
        make_vocab(parse(VocabConfig, [*flags, str(tmp_path / name), "--num_workers", str(workers)]))
        return (tmp_path / name).read_bytes()

    undisturbed = make("two", 2)
    count, calls = vocabulary._count_piece, []

    def fails_at_third(*arguments):
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return count(*arguments)

    monkeypatch.setattr(vocabulary, "_count_piece", fails_at_third)
    with pytest.raises(KeyboardInterrupt):
        make("one", 1)
    assert make("one", 1) == undisturbed
    assert calls.count(0) == 1 and len(calls) > 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "one", "two"]


def test_text_without_spaces_is_counted_by_its_words(tmp_path):
    text = "".join(chr(0x4E00 + i % 7) + "，" for i in range(500)) + "A" * 900 + "\n"
    (tmp_path / "a").write_text(text * 2)
    config = parse(VocabConfig, ["--input_file", str(tmp_path / "a"), "--vocab_file", str(tmp_path / "v")])
    span = Span(str(tmp_path / "a"), 0, len((text * 2).encode()), "text")
    vocabulary._count_piece(tmp_path, 0, [span], config.text, True)
    words = json.loads((tmp_path / "words-000000").read_text())
    assert words.pop("a" * 201) == 2
    assert words.pop("，") == 1000
    assert len(words) == 7 and sum(words.values()) == 1000


def test_the_rarest_of_too_many_words_are_dropped(tmp_path):
    for number in range(3):
        words = {f"w{i}": 1000 - i for i in range(5)} | {f"rare{number}-{i}": 1 for i in range(1000)}
        (tmp_path / str(number)).write_text(json.dumps(words))
    merged = vocabulary._merge([tmp_path / str(number) for number in range(3)], memory_mb=1)
    assert {word: merged[word] for word in ("w0", "w4")} == {"w0": 3000, "w4": 2988}
    assert len(merged) <= (1 << 20) // vocabulary._COUNTED_BYTES


def test_warning_about_a_vocabulary_among_the_text(tmp_path, corpus, capsys):
    for name, warned in (("text/vocab.txt", True), ("vocab.txt", False)):
        (tmp_path / "text").mkdir(exist_ok=True)
        shutil.copy(corpus[0], tmp_path / "text" / "a.txt")
        words = ["--input_file", str(tmp_path / "text"), "--vocab_size", "120", "--vocab_file", str(tmp_path / name)]
        make_vocab(parse(VocabConfig, words))
        assert ("would read it as text" in capsys.readouterr().err) == warned
        shutil.rmtree(tmp_path / "text")


def test_a_vocabulary_is_taken_from_a_model_or_refused(tmp_path, corpus):
    text, vocab = corpus
    make_vocab(parse(VocabConfig, ["--input_file", str(vocab.parent), "--vocab_file", str(tmp_path / "new/v.txt")]))
    assert (tmp_path / "new/v.txt").read_bytes() == vocab.read_bytes()
    with pytest.raises(UserError, match="--vocab_size 100"):
        text.write_text(" ".join(map(chr, range(0x4E00, 0x4E80))))
        make_vocab(
            parse(VocabConfig, ["--input_file", str(text), "--vocab_file", str(tmp_path / "v"), "--vocab_size", "100"])
        )


def test_the_vocabulary_of_records_is_not_replaced_by_another(tmp_path, corpus):
    out = prepare_set(*corpus, tmp_path / "out")
    before = content(out)
    with pytest.raises(UserError, match=r"out/vocab\.txt belongs to the records in its directory"):
        make_vocab(parse(VocabConfig, ["--input_file", str(corpus[0]), "--vocab_file", str(out)]))
    assert content(out) == before
