"""`prepare_data.py pretraining` from text to records: what they hold, and that nothing but the flags decides it."""

import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from itertools import pairwise
from unittest.mock import Mock

import fsspec
import numpy as np
import pytest

from configs.cli import parse
from configs.prepare import CleanConfig, InspectConfig, PretrainingDataConfig, VerifyConfig, VocabConfig
from data.preparation import inspection, pieces, pretraining, vocabulary
from data.preparation.cleaning import clean
from data.preparation.inspection import inspect, verify
from data.preparation.pretraining import prepare
from data.preparation.storage import StorageError, upload
from data.preparation.vocabulary import make_vocab
from data.reading.dynamic_masking import unmasked
from data.records.ofrecord import ShardWriter, open_records
from data.text import documents as text_module
from data.text.documents import Span
from data.text.tokenization import load_vocab
from tests.data.corpus import VOCAB, documents, write_corpus
from utils.errors import UserError

S, P = 37, 7


@pytest.fixture(autouse=True)
def many_pieces(monkeypatch):
    """The small corpus is cut into several pieces, and a shard into several parts that are shuffled in memory."""
    monkeypatch.setattr(text_module, "SMALLEST_PIECE", 700)
    monkeypatch.setattr(pretraining, "_CELL_SHARE", 1 << 16)


def run(text, vocab, output, *more):
    flags = ["--input_file", text, "--vocab_file", vocab, "--output_dir", output, "--max_seq_length", S]
    flags += ["--max_predictions_per_seq", P, "--dupe_factor", 3, "--num_shards", 4, "--num_workers", 1, *more]
    prepare(parse(PretrainingDataConfig, list(map(str, flags))))
    return output


def content(directory):
    """{file: bytes}, without those that name the directory."""
    named = ("dataset.json", "report.html")
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name not in named}


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "in")


def test_records_are_pairs_of_the_corpus(tmp_path, corpus):
    records = open_records(run(*corpus, tmp_path / "out"))
    counts = [shard["records"] for shard in records.metadata["shards"]]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == len(records)
    batch = records.read(np.arange(len(records)))
    used = batch["masked_lm_weights"] > 0
    rows, columns = np.nonzero(used)
    ids = batch["input_ids"].copy()
    ids[rows, batch["masked_lm_positions"][rows, columns]] = batch["masked_lm_ids"][rows, columns]
    tokens = {index: token for token, index in VOCAB.items()}
    texts = [" ".join(document).replace(" w", " w") for document in documents()]
    whole = [" ".join(text.split()) for text in texts]
    for row in range(len(records)):
        length = int(batch["input_mask"][row].sum())
        assert batch["input_mask"][row].tolist() == [1] * length + [0] * (S - length)
        second = int(batch["segment_ids"][row].sum())
        assert batch["segment_ids"][row].tolist() == [0] * (length - second) + [1] * second + [0] * (S - length)
        words = [tokens[i] for i in ids[row, :length].tolist()]
        assert (words[0], words[length - second - 1], words[-1]) == ("[CLS]", "[SEP]", "[SEP]")
        for part in (words[1 : length - second - 1], words[length - second : -1]):
            assert part
            assert any(" ".join(part).replace(" ##", "").removeprefix("##") in document for document in whole)
        assert used[row].sum() == min(P, max(1, round(length * 0.15)))
    assert 0.3 < batch["next_sentence_labels"].mean() < 0.8
    assert json.loads((tmp_path / "out/dataset.json").read_text())["objective"] == "nsp"
    assert load_vocab(tmp_path / "out") == VOCAB


@pytest.mark.parametrize("more", [(), ("--do_whole_word_mask",), ("--objective", "none"), ("--bin_size", 10)])
def test_the_number_of_workers_changes_nothing(tmp_path, corpus, more):
    one = content(run(*corpus, tmp_path / "one", *more))
    assert one == content(run(*corpus, tmp_path / "three", "--num_workers", 3, *more))
    assert one != content(run(*corpus, tmp_path / "other", "--random_seed", 2, *more))


def test_the_whole_corpus_is_shuffled(tmp_path, corpus):
    """Each document's records spread over the shards as chance would have it."""
    records = open_records(run(*corpus, tmp_path / "out", "--dupe_factor", 40, "--objective", "none"))
    starts = np.append(records.shard_starts, len(records))
    first = records.read(np.arange(len(records)))["input_mask"].sum(1)
    means = [first[i:j].mean() for i, j in pairwise(starts)]
    assert np.abs(np.array(means) - first.mean()).max() < 4.5 * first.std() / np.sqrt(len(records) / 4)
    order = np.arange(len(records))
    assert abs(np.corrcoef(order, first)[0, 1]) < 4.5 / np.sqrt(len(records))
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4.5 / np.sqrt(len(records))


def test_bins_hold_the_same_records_by_length(tmp_path, corpus):
    mixed = run(*corpus, tmp_path / "mixed", "--dupe_factor", 9, "--num_shards", 11)
    binned = run(*corpus, tmp_path / "binned", "--dupe_factor", 9, "--num_shards", 11, "--bin_size", 10)
    tokens, records = {}, {}
    for directory in (mixed, binned):
        records[directory] = open_records(directory)
        tokens[directory] = unmasked(records[directory].read(np.arange(len(records[directory]))))["input_ids"]
    assert sorted(tokens[mixed].tolist()) == sorted(tokens[binned].tolist())
    lengths = (tokens[binned] != 0).sum(axis=1)
    assert records[mixed].lengths is None
    bounds = records[binned].lengths
    assert (lengths <= bounds).all() and (lengths > bounds - 10).all()
    shards = records[binned].metadata["shards"]
    assert [shard["max_length"] for shard in shards] == sorted(shard["max_length"] for shard in shards)
    assert len(shards) == 11 and {10, 20, 30, S} >= {shard["max_length"] for shard in shards} > {30, S}
    for bound in (20, 30, S):  # alike within a bin, and shuffled over the corpus there
        sizes = [shard["records"] for shard in shards if shard["max_length"] == bound]
        assert max(sizes) - min(sizes) <= 1
        inside = lengths[bounds == bound]
        assert abs(np.corrcoef(np.arange(len(inside)), inside)[0, 1]) < 4.5 / np.sqrt(len(inside))
    report = json.loads((binned / "report.json").read_text())
    assert report["padding_share"] == pytest.approx(1 - lengths.sum() / (len(lengths) * S))
    assert report["binned_padding_share"] == pytest.approx(1 - lengths.sum() / bounds.sum())
    page = (binned / "report.html").read_text()
    assert "binned padding share" in page and "in bins of lengths" in page
    shown = [int(re.search("([0-9]+) tokens", sample)[1]) for sample in report["samples"]]
    assert [int(np.ceil(length / 10)) for length in shown] == sorted({-(-int(length) // 10) for length in lengths})


@pytest.mark.parametrize("stage", ["_tokenize_piece", "_draw_piece", "_write_shard"])
def test_an_interrupted_preparation_goes_on_and_ends_with_the_same_bytes(tmp_path, corpus, monkeypatch, stage):
    undisturbed = content(run(*corpus, tmp_path / "one"))
    function, calls = getattr(pretraining, stage), []

    def fails_at_third(*arguments):
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return function(*arguments)

    monkeypatch.setattr(pretraining, stage, fails_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(*corpus, tmp_path / "two")
    with pytest.raises(UserError, match=r"interrupted|finished"):
        open_records(tmp_path / "two")
    with pytest.raises(UserError, match="unfinished preparation"):
        run(*corpus, tmp_path / "two", "--random_seed", 3)
    run(*corpus, tmp_path / "two")
    assert calls.count(0) == calls.count(1) == 1  # the finished pieces were not done again
    assert content(tmp_path / "two") == undisturbed


def test_interrupted_at_the_first_and_the_last_moment(tmp_path, corpus, monkeypatch):
    """Before its plan is written, and while a finished preparation tidies up."""
    run(*corpus, tmp_path / "one")
    undisturbed = content(tmp_path / "one")
    for function in ("write_atomically", "_remove_leftovers"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(pieces, function, Mock(side_effect=KeyboardInterrupt))
            run(*corpus, tmp_path / "two")
        run(*corpus, tmp_path / "two")
        assert content(tmp_path / "two") == undisturbed
        shutil.rmtree(tmp_path / "two")


def test_killed_at_random_moments(tmp_path, corpus):
    """SIGKILL of the whole process group, several times, with two workers."""
    text, vocab = corpus
    command = [sys.executable, "prepare_data.py", "pretraining", "--input_file", text, "--vocab_file", vocab]
    command += ["--output_dir", tmp_path / "killed", "--max_seq_length", S, "--max_predictions_per_seq", P]
    command += ["--dupe_factor", 400, "--num_shards", 9]
    command = list(map(str, command))
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "--num_workers", "2"],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while not (tmp_path / "killed/.work").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.4)
        with suppress(ProcessLookupError):  # done already
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--num_workers", "1"], check=True, capture_output=True)
    killed = content(tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed")
    subprocess.run([*command, "--num_workers", "2"], check=True, capture_output=True)
    assert content(tmp_path / "killed") == killed


def test_names_that_are_not_utf8(tmp_path, corpus):
    text, vocab = corpus
    named = text.rename(text.with_name(os.fsdecode(b"caf\xe9 x.txt")))
    assert len(open_records(run(named, vocab, tmp_path / os.fsdecode(b"\xe9")))) > 100


def test_a_complete_set_is_left_alone_and_another_is_refused(tmp_path, corpus, capsys):
    output = run(*corpus, tmp_path / "out")
    before = content(output)
    run(*corpus, output, "--num_workers", 2)
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        run(*corpus, output, "--random_seed", 2)
    assert content(output) == before
    run(*corpus, output, "--num_shards", 3, "--overwrite_output_dir")
    assert len(open_records(output).shards) == 3


def test_lost_shards_are_noticed(tmp_path, corpus, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "write_report", Mock(side_effect=KeyboardInterrupt))
        with suppress(KeyboardInterrupt):
            run(*corpus, tmp_path / "again")
    (tmp_path / "again" / "part-00001").unlink()
    os.truncate(tmp_path / "again" / "part-00002", 100)
    whole = content(run(*corpus, tmp_path / "whole"))
    assert content(run(*corpus, tmp_path / "again")) == whole
    (tmp_path / "whole" / "part-00003").unlink()
    with pytest.raises(UserError, match="3 of the 4 part"):
        verify(parse(VerifyConfig, ["--input_dir", str(tmp_path / "whole")]))


def test_standard_input_is_told_by_what_it_holds(tmp_path, corpus, monkeypatch):
    text, vocab = corpus
    file = next(path for path in text.rglob("*") if path.is_file()) if text.is_dir() else text

    def run_on(data, *more):
        monkeypatch.setattr("sys.stdin", Mock(buffer=io.BytesIO(data)))
        return run("-", vocab, tmp_path / "out", *more)

    data = file.read_bytes()
    first = content(run_on(data))
    assert content(run_on(data)) == first
    half = data[: data.index(b"\n\n", len(data) // 2) + 2]
    with pytest.raises(UserError, match="other flags or input"):
        run_on(half)
    assert content(run_on(half, "--overwrite_output_dir")) != first
    with (tmp_path / "out/.stdin-0").open("wb", buffering=0) as other:  # another process reads its standard input
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"wa")
        with pytest.raises(UserError, match="another process prepares"):
            run_on(data)
        assert (tmp_path / "out/.stdin-0").read_bytes() == b"wa"
    assert content(run_on(half)) != first


def test_the_input_is_not_overwritten(tmp_path, corpus):
    text, vocab = corpus
    inside = text if text.is_dir() else text.parent
    vocab = vocab.rename(tmp_path / "vocab.txt")
    with pytest.raises(UserError, match="holds the input"):
        run(text, vocab, inside, "--overwrite_output_dir")


def test_results_below_the_input_are_no_input(tmp_path, corpus, monkeypatch):
    """`--input_file . --output_dir records`, interrupted and taken up again."""
    text, vocab = corpus
    vocab = vocab.rename(tmp_path / "vocab.txt")
    expected = content(run(text.parent, vocab, tmp_path / "elsewhere"))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(pretraining, "write_report", Mock(side_effect=KeyboardInterrupt))
        run(text.parent, vocab, text.parent / "records")
    assert (text.parent / "records/part-00000").exists()
    assert content(run(text.parent, vocab, text.parent / "records")) == expected
    run(text.parent, vocab, text.parent / "records")


def test_a_set_is_copied_to_where_a_url_says(tmp_path, corpus, monkeypatch, capsys):
    expected = content(run(*corpus, tmp_path / "here"))
    url, work = f"file://{tmp_path}/far/away", ("--work_dir", tmp_path / "work")
    copied = []

    def breaks_once(file, url):
        copied.append(file.name)
        if len(copied) == 3:
            raise StorageError("the connection was lost; run the same command again to go on.")
        upload(file, url)

    monkeypatch.setattr(pretraining, "upload", breaks_once)
    with pytest.raises(StorageError):
        run(*corpus, url, *work)
    assert not (tmp_path / "far/away/dataset.json").exists()
    run(*corpus, url, *work)
    assert copied.count(copied[0]) == 1 and copied[-1] == "dataset.json"
    assert content(tmp_path / "far/away") == expected
    assert len(open_records(tmp_path / "far/away")) > 100
    assert not list((tmp_path / "work").iterdir())
    run(*corpus, url, *work)
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        run(*corpus, url, *work, "--random_seed", 2)
    run(*corpus, url, *work, "--random_seed", 2, "--overwrite_output_dir")
    assert content(tmp_path / "far/away") != expected
    assert not list((tmp_path / "work").iterdir())


def test_file_systems_without_directories(tmp_path, corpus):
    expected = content(run(*corpus, tmp_path / "here"))
    run(*corpus, "memory://bucket/records", "--work_dir", tmp_path / "work")
    files = fsspec.filesystem("memory")
    assert {name: files.cat_file(f"/bucket/records/{name}") for name in expected} == expected
    assert files.exists("/bucket/records/dataset.json")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--output_dir", "memory://x"), "give --work_dir"),
        (("--work_dir", "x"), "--work_dir is for"),
        (("--output_dir", "nonsense://x", "--work_dir", "w"), "nonsense://x cannot be used"),
    ],
)
def test_urls_that_make_no_sense(tmp_path, corpus, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        run(*corpus, tmp_path / "out", *flags)


def dies_once(work, index, *arguments):
    """Stands in for stage 2: the third piece's first process is killed."""
    if index == 2 and not (work.parent.parent / "died").exists():
        (work.parent.parent / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return draw_piece(work, index, *arguments)


draw_piece = pretraining._draw_piece


def test_a_worker_that_is_killed_is_one_sentence_and_nothing_is_lost(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(pretraining, "_draw_piece", dies_once)
    with pytest.raises(UserError, match="run the same command again"):
        run(*corpus, tmp_path / "out", "--num_workers", 2)
    assert len(open_records(run(*corpus, tmp_path / "out"))) > 100


def dies(directory, shard, vocab_size):
    """Stands in for the check of a shard."""
    if shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_while_a_set_is_verified_is_one_sentence(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(inspection, "_verify_shard", dies)
    with pytest.raises(UserError, match="a worker process was killed"):
        verify(VerifyConfig(str(run(*corpus, tmp_path / "out")), num_workers=2))


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (lambda text, vocab: text.unlink(), (), "text.txt does not exist"),
        (lambda text, vocab: text.write_text(""), (), "nothing but empty files"),
        (lambda text, vocab: text.write_text(" \n \n"), (), "holds no text"),
        (lambda text, vocab: text.write_text("wa wb\nwc\n"), (), "single document"),
        (
            lambda text, vocab: text.write_text("wa wb\nwc\n\n" * 2),
            ("--remove_duplicates", "documents"),
            "single document without its duplicates",
        ),
        (lambda text, vocab: text.write_bytes(b"\x89PNG\0\0" * 99), (), "not UTF-8 text"),
        (lambda text, vocab: vocab.unlink(), (), "vocab.txt"),
        (lambda text, vocab: vocab.write_text("wa\nwb\n"), (), "lacks"),
        (lambda text, vocab: None, ("--bin_size", 3), "--num_shards 4 is less than the [0-9]+ bins"),
        (
            lambda text, vocab: None,
            ("--bin_size", 10, "--objective", "none", "--packing", "chunks"),
            "--bin_size .* --packing chunks",
        ),
        (lambda text, vocab: None, ("--max_seq_length", 3), "--max_seq_length"),
        (lambda text, vocab: None, ("--max_seq_length", 6), "--max_predictions_per_seq is 7, .*--max_seq_length, 6"),
        (lambda text, vocab: None, ("--masked_lm_prob", 1.5), "--masked_lm_prob"),
        (lambda text, vocab: None, ("--output_dir", "/dev/null/x"), "--output_dir"),
        (lambda text, vocab: None, ("--output_dir", "/proc/x"), "--output_dir /proc/x cannot be written to"),
        (lambda text, vocab: None, ("--output_dir", "/tmp/" + "x" * 300), "cannot be written to: File name too long"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, corpus, change, flags, words):
    change(*corpus)
    with pytest.raises(UserError, match=words):
        run(*corpus, tmp_path / "out", *flags)
    assert not (tmp_path / "out/.work").exists()
    assert not (tmp_path / "out/dataset.json").exists()


def test_the_vocabulary_of_a_set_is_not_overwritten_with_the_set(tmp_path, corpus):
    out = run(*corpus, tmp_path / "out")
    before = content(out)
    with pytest.raises(UserError, match=r"--vocab_file .*out lies where the records will be"):
        run(corpus[0], out, out, "--dupe_factor", 1, "--overwrite_output_dir")
    assert content(out) == before


@pytest.mark.parametrize("many", [210, 99_999])  # more than the records, and more than the sentences
def test_too_many_shards_are_refused_and_with_fewer_what_is_done_stays_done(tmp_path, corpus, monkeypatch, many):
    flags = ["--dupe_factor", 1]
    expected = content(run(*corpus, tmp_path / "expected", *flags, "--num_shards", 5))
    with pytest.raises(UserError, match=f"--num_shards is {many}, but the input gives no more than [0-9]+ records"):
        run(*corpus, tmp_path / "out", *flags, "--num_shards", many)
    monkeypatch.setattr(pretraining, "_tokenize_piece", None)
    assert content(run(*corpus, tmp_path / "out", *flags, "--num_shards", 5)) == expected


def stops_at_the_last_shard(work, index, *arguments):
    """Stands in for stage 3."""
    return write_shard(work, index, *arguments) if index < 3 else 1 / 0


write_shard = pretraining._write_shard


def test_an_interrupted_set_may_have_another_number_of_shards(tmp_path, corpus, monkeypatch):
    expected = content(run(*corpus, tmp_path / "expected", "--num_shards", 3))
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "_write_shard", stops_at_the_last_shard)
        with pytest.raises(ZeroDivisionError):
            run(*corpus, tmp_path / "out", "--num_shards", 4)
    assert content(run(*corpus, tmp_path / "out", "--num_shards", 3)) == expected


def test_inspect_shows_and_verify_finds(tmp_path, corpus, capsys):
    output = run(*corpus, tmp_path / "out")
    inspect(parse(InspectConfig, ["--input_dir", str(output), "--num_samples", "2"]))
    shown = capsys.readouterr().out
    assert "input_ids              int32[37]" in shown
    assert shown.count("[CLS]") == 2
    assert "the report is" in shown
    assert "masked: " in shown
    check = parse(VerifyConfig, ["--input_dir", str(output), "--num_workers", "2"])
    verify(check)
    assert "sound" in capsys.readouterr().out
    shard = output / "part-00002"
    data = bytearray(shard.read_bytes())
    place = data.index(b"segment_ids") + 20
    assert data[place] == 0
    data[place] = 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="part-00002: its checksum"):
        verify(check)
    data[place] = 2
    shard.write_bytes(data)
    with pytest.raises(UserError, match="part-00002: record 0: segment_ids holds 2"):
        verify(check)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_ids", -1), ("input_ids", len(VOCAB)), ("masked_lm_ids", -3), ("masked_lm_weights", np.nan),
        ("masked_lm_weights", -1), ("masked_lm_positions", S), ("next_sentence_labels", 2), ("input_mask", 2),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_found(tmp_path, corpus, alone, name, value):
    """Also without dataset.json; `inspect` shows the records and says it."""
    records = open_records(run(*corpus, tmp_path / "out"))
    batch = records.read(np.arange(9))
    batch[name][5, -1] = value
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    with ShardWriter(directory / "part-0", records.schema) as writer:
        writer.write_batch(batch)
    if not alone or value == len(VOCAB):
        shutil.copy(corpus[1], directory / "vocab.txt")
    with pytest.raises(UserError, match=f"record 5: {name} holds {value}"):
        verify(parse(VerifyConfig, ["--input_dir", str(directory)]))
    more = [] if (directory / "vocab.txt").exists() else ["--vocab_file", str(corpus[1])]
    with pytest.raises(UserError, match=f"record 5: {name} holds {value}"):
        inspect(parse(InspectConfig, ["--input_dir", str(directory), "--num_samples", "9", *more]))


def test_the_report_counts_what_the_records_hold(tmp_path, corpus):
    output = run(*corpus, tmp_path / "out")
    report = json.loads((output / "report.json").read_text())
    records = open_records(output)
    batch = records.read(np.arange(len(records)))
    tokens = int(batch["input_mask"].sum())
    used = batch["masked_lm_weights"] > 0
    rows, columns = np.nonzero(used)
    shown = batch["input_ids"][rows, batch["masked_lm_positions"][rows, columns]]
    answers = batch["masked_lm_ids"][rows, columns]
    assert report["records"] == len(records)
    assert report["tokens"] == tokens
    assert report["padding_share"] == pytest.approx(1 - tokens / batch["input_mask"].size)
    assert report["length_histogram"] == np.bincount(batch["input_mask"].sum(1), minlength=S + 1).tolist()
    assert report["label_1_share"] == pytest.approx(batch["next_sentence_labels"].mean())
    assert report["predictions_per_record"] == pytest.approx(used.sum() / len(records))
    assert report["shown_as_itself"] == pytest.approx((shown == answers).mean())
    assert report["shown_as_mask"] == pytest.approx(((shown == VOCAB["[MASK]"]) & (shown != answers)).mean())
    assert report["corpus"]["documents"] == len(documents())
    assert report["corpus"]["sentences"] == sum(map(len, documents()))
    predictions = used.sum(1)
    assert report["predictions_histogram"] == np.bincount(predictions).tolist()
    assert report["masked_share_of_tokens"] == pytest.approx(used.sum() / tokens)
    assert report["vocabulary_used_share"] == pytest.approx(report["vocabulary_used"] / len(VOCAB))
    page = (output / "report.html").read_text()
    assert page.count('<div style="width: ') > 16
    assert not re.search("http|url|src|href|<script|<link|@import", page)  # nothing is fetched
    label = f"{report['label_1_share']:.1%}"
    assert f'width: {label}"></div></td><td>{label}' in page  # as wide as it says
    # Counted anew from the records it is the same.
    inspect(parse(InspectConfig, ["--input_dir", str(output), "--report_dir", str(tmp_path / "again")]))
    again = json.loads((tmp_path / "again/report.json").read_text())
    assert again.pop("samples") and report.pop("samples")
    assert again == report
    # Of a set made elsewhere nobody knows the text.
    for name in ("report.json", "report.html", "dataset.json"):
        (output / name).unlink()
    inspect(parse(InspectConfig, ["--input_dir", str(output)]))
    again = json.loads((output / "report.json").read_text())
    assert again["length_histogram"] == report["length_histogram"] and "corpus" not in again


def test_pairs_that_are_swapped_later_have_no_balance_yet(tmp_path, corpus):
    output = run(*corpus, tmp_path / "out", "--objective", "sop", "--masking", "dynamic")
    inspect(parse(InspectConfig, ["--input_dir", str(output), "--report_dir", str(tmp_path / "again")]))
    for directory in (output, tmp_path / "again"):
        report = json.loads((directory / "report.json").read_text())
        assert "label_1_share" not in report and "labels" not in " ".join(report["warnings"])
        assert "in order" not in (directory / "report.html").read_text().split("<h2>Samples")[0]


def test_duplicates_are_removed_and_counted(tmp_path, corpus):
    text, vocab = corpus
    once = run(text, vocab, tmp_path / "once")
    assert removed(once) == (0, 0)
    twice = text.with_name("twice.txt")
    lines = text.read_text()
    last = lines.split("\n\n")[-1]
    twice.write_text(f"{lines}\n{lines}\nwa wb new\n{last}")
    output = run(twice, vocab, tmp_path / "documents", "--remove_duplicates", "documents")
    count = len(documents())
    assert removed(output) == (count, 0)
    assert json.loads((output / "report.json").read_text())["corpus"]["documents"] == count + 1
    assert "duplicate documents removed</td><td>23<" in (output / "report.html").read_text()

    all_lines = [line for line in twice.read_text().splitlines() if line]
    sentences = len(all_lines) - len(set(all_lines))
    for workers in (1, 2):
        output = run(twice, vocab, tmp_path / f"both{workers}", "--remove_duplicates", "both", "--num_workers", workers)
        assert removed(output) == (count, sentences)
    assert content(tmp_path / "both1") == content(tmp_path / "both2")

    # What `clean` left out is counted where its text is used.
    flags = ["--input_file", str(twice), "--output_dir", str(tmp_path / "text"), "--remove_duplicates", "both"]
    clean(parse(CleanConfig, flags))
    assert removed(run(tmp_path / "text", vocab, tmp_path / "cleaned")) == (count, sentences)
    again = run(tmp_path / "text", vocab, tmp_path / "again", "--remove_duplicates", "lines")
    assert removed(again) == (count, sentences)


def removed(directory):
    corpus = json.loads((directory / "report.json").read_text())["corpus"]
    return corpus["duplicate_documents_removed"], corpus["duplicate_lines_removed"]


def test_what_ruins_training_is_warned_of(tmp_path, corpus, capsys):
    text, vocab = corpus
    text.write_text("\n\n".join(["wa wb. wc", "unheard of words", "wa wb"] * 20))
    report = json.loads((run(text, vocab, tmp_path / "out") / "report.json").read_text())
    told = capsys.readouterr().err
    for words in ("[UNK]", "occur more than once", "are one sentence", "padding"):
        assert words in " ".join(report["warnings"])
        assert words in told


def test_one_line_repeated_is_seen_in_a_sample_of_lines(tmp_path, corpus, monkeypatch):
    text, vocab = corpus
    line = next(f"wa wb w{letter}" for letter in "cdefgh" if zlib.crc32(f"wa wb w{letter}".encode()) % 50)
    text.write_text("\n\n".join("\n".join([*document, line]) for document in documents(60)) + "\n")
    lines = [line for line in text.read_text().splitlines() if line]
    monkeypatch.setattr(pretraining, "_sampling_rate", lambda pieces: 50)
    run(text, vocab, tmp_path / "out")
    share = json.loads((tmp_path / "out/report.json").read_text())["corpus"]["duplicate_lines_share"]
    assert abs(share - 59 / len(lines)) < 0.02


def test_lines_longer_than_records_are_warned_of(tmp_path, corpus):
    text, vocab = corpus
    text.write_text("wa wb wc " * 20_000 + "\n\n" + "wd we " * 30_000)
    report = json.loads((run(text, vocab, tmp_path / "out", "--num_shards", 1) / "report.json").read_text())
    assert "what does not fit is cut off" in " ".join(report["warnings"])


def test_vocabularies_are_the_same_every_time(tmp_path, corpus):
    text, _ = corpus
    command = [sys.executable, "prepare_data.py", "vocab", "--input_file", str(text), "--vocab_size", "101"]
    for name in ("a", "b"):  # in processes of their own: hash tables differ between them
        subprocess.run([*command, "--vocab_file", str(tmp_path / name)], check=True, capture_output=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    vocab = load_vocab(tmp_path / "a")
    assert list(vocab)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(vocab) <= 101
    assert {"wa", "wab"[0], "##a"} <= set(vocab)


def test_a_vocabulary_that_was_interrupted_is_taken_up_again(tmp_path, corpus, monkeypatch):
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


def test_of_too_many_words_the_rarest_are_lost(tmp_path):
    for number in range(3):
        words = {f"w{i}": 1000 - i for i in range(5)} | {f"rare{number}-{i}": 1 for i in range(1000)}
        (tmp_path / str(number)).write_text(json.dumps(words))
    merged = vocabulary._merge([tmp_path / str(number) for number in range(3)], memory_mb=1)
    assert {word: merged[word] for word in ("w0", "w4")} == {"w0": 3000, "w4": 2988}
    assert len(merged) <= (1 << 20) // vocabulary._COUNTED_BYTES


def test_a_vocabulary_among_the_text_is_warned_of(tmp_path, corpus, capsys):
    for place, warned in (("text/vocab.txt", True), ("vocab.txt", False)):
        (tmp_path / "text").mkdir(exist_ok=True)
        shutil.copy(corpus[0], tmp_path / "text" / "a.txt")
        words = ["--input_file", str(tmp_path / "text"), "--vocab_size", "120", "--vocab_file", str(tmp_path / place)]
        make_vocab(parse(VocabConfig, words))
        assert ("takes it for text" in capsys.readouterr().err) == warned
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
    out = run(*corpus, tmp_path / "out")
    before = content(out)
    with pytest.raises(UserError, match=r"out/vocab\.txt is the vocabulary of the records beside it"):
        make_vocab(parse(VocabConfig, ["--input_file", str(corpus[0]), "--vocab_file", str(out)]))
    assert content(out) == before


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter(range(0, 1000, 11))
    monkeypatch.setattr(pieces.time, "monotonic", lambda: next(clock))
    with pieces.Progress("pairs", 200, "tokens") as progress:
        progress.update(50)
    assert capsys.readouterr().err == "pairs: 50 of 200 tokens, 2 tokens/s, 66 s left\n"


def test_progress_is_a_bar_on_a_terminal_even_of_no_size(monkeypatch):
    terminal, end = os.openpty()  # of 0 columns and 0 lines, as `script` and continuous integration have them
    with os.fdopen(end, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with pieces.Progress("pairs", 200, "tokens") as progress:
            progress.update(200)
        stderr.write("end")
        stderr.flush()
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(terminal, 1 << 16)
    os.close(terminal)
    assert b"pairs: 100%" in shown
    assert b"200/200" in shown


def test_ray_does_the_same_and_does_a_lost_piece_again(tmp_path, corpus, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # no token in the home directory
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    ray = pytest.importorskip("ray")
    expected = content(run(*corpus, tmp_path / "here"))
    monkeypatch.setattr(pretraining, "_draw_piece", dies_once)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert content(run(*corpus, tmp_path / "there", "--runner", "ray")) == expected
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
