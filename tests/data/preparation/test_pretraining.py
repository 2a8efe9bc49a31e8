"""`prepare_data.py pretraining` from text to records: only the flags decide what they hold."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest

from configs.cli import parse
from configs.prepare import VerifyConfig
from data.ofrecord import open_records
from data.preparation import pairs_stage, pretraining, shards_stage, tokenize_stage
from data.preparation.inspection import verify
from data.tokenization import load_vocab
from tests.data.corpus import VOCAB, P, S, content, documents, prepare_set
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("many_pieces")


def test_records_are_pairs_of_the_corpus(tmp_path, corpus):
    records = open_records(prepare_set(*corpus, tmp_path / "out"))
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
    one = content(prepare_set(*corpus, tmp_path / "one", *more))
    assert one == content(prepare_set(*corpus, tmp_path / "three", "--num_workers", 3, *more))
    assert one != content(prepare_set(*corpus, tmp_path / "other", "--random_seed", 2, *more))


@pytest.mark.parametrize(
    ("module", "function"),
    [(tokenize_stage, "_tokenize_piece"), (pairs_stage, "_draw_piece"), (shards_stage, "_write_shard")],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_interrupted_preparation_continues_to_the_same_bytes(tmp_path, corpus, monkeypatch, module, function):
    undisturbed = content(prepare_set(*corpus, tmp_path / "one"))
    original, calls = getattr(module, function), []

    def fails_at_third(*arguments):
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, function, fails_at_third)
    with pytest.raises(KeyboardInterrupt):
        prepare_set(*corpus, tmp_path / "two")
    with pytest.raises(UserError, match=r"interrupted|finished"):
        open_records(tmp_path / "two")
    with pytest.raises(UserError, match="unfinished preparation"):
        prepare_set(*corpus, tmp_path / "two", "--random_seed", 3)
    prepare_set(*corpus, tmp_path / "two")
    assert calls.count(0) == calls.count(1) == 1  # finished pieces are not done again
    assert content(tmp_path / "two") == undisturbed


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


def test_file_names_that_are_not_utf8(tmp_path, corpus):
    text, vocab = corpus
    named = text.rename(text.with_name(os.fsdecode(b"caf\xe9 x.txt")))
    assert len(open_records(prepare_set(named, vocab, tmp_path / os.fsdecode(b"\xe9")))) > 100


def test_a_complete_set_is_kept_and_another_is_refused(tmp_path, corpus, capsys):
    output = prepare_set(*corpus, tmp_path / "out")
    before = content(output)
    prepare_set(*corpus, output, "--num_workers", 2)
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        prepare_set(*corpus, output, "--random_seed", 2)
    assert content(output) == before
    prepare_set(*corpus, output, "--num_shards", 3, "--overwrite_output_dir")
    assert len(open_records(output).shards) == 3


def test_missing_shards_are_found(tmp_path, corpus, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "write_report", Mock(side_effect=KeyboardInterrupt))
        with suppress(KeyboardInterrupt):
            prepare_set(*corpus, tmp_path / "again")
    (tmp_path / "again" / "part-00001").unlink()
    os.truncate(tmp_path / "again" / "part-00002", 100)
    whole = content(prepare_set(*corpus, tmp_path / "whole"))
    assert content(prepare_set(*corpus, tmp_path / "again")) == whole
    (tmp_path / "whole" / "part-00003").unlink()
    with pytest.raises(UserError, match="3 of the 4 part"):
        verify(parse(VerifyConfig, ["--input_dir", str(tmp_path / "whole")]))


def dies_once(work, index, *arguments):
    """A stand-in for the second stage: the first process that draws the third piece is killed."""
    if index == 2 and not (work.parent.parent / "died").exists():
        (work.parent.parent / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return draw_piece(work, index, *arguments)


draw_piece = pairs_stage._draw_piece


def test_a_killed_worker_is_reported_and_nothing_is_lost(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(pairs_stage, "_draw_piece", dies_once)
    with pytest.raises(UserError, match="run the same command again"):
        prepare_set(*corpus, tmp_path / "out", "--num_workers", 2)
    assert len(open_records(prepare_set(*corpus, tmp_path / "out"))) > 100


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (lambda text, vocab: text.unlink(), (), "text.txt does not exist"),
        (lambda text, vocab: text.write_text(""), (), "all files are empty"),
        (lambda text, vocab: text.write_text(" \n \n"), (), "contains no text"),
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
def test_mistakes_are_reported_and_leave_nothing_behind(tmp_path, corpus, change, flags, words):
    change(*corpus)
    with pytest.raises(UserError, match=words):
        prepare_set(*corpus, tmp_path / "out", *flags)
    assert not (tmp_path / "out/.work").exists()
    assert not (tmp_path / "out/dataset.json").exists()


def test_the_vocabulary_of_a_set_is_not_overwritten_with_the_set(tmp_path, corpus):
    out = prepare_set(*corpus, tmp_path / "out")
    before = content(out)
    with pytest.raises(UserError, match=r"--vocab_file .*out is in the output directory"):
        prepare_set(corpus[0], out, out, "--dupe_factor", 1, "--overwrite_output_dir")
    assert content(out) == before


@pytest.mark.parametrize("many", [210, 99_999])  # more than there are records, or sentences
def test_too_many_shards_are_refused_and_finished_pieces_are_kept(tmp_path, corpus, monkeypatch, many):
    flags = ["--dupe_factor", 1]
    expected = content(prepare_set(*corpus, tmp_path / "expected", *flags, "--num_shards", 5))
    with pytest.raises(UserError, match=f"--num_shards is {many}, but the input yields at most [0-9]+ records"):
        prepare_set(*corpus, tmp_path / "out", *flags, "--num_shards", many)
    monkeypatch.setattr(tokenize_stage, "_tokenize_piece", None)
    assert content(prepare_set(*corpus, tmp_path / "out", *flags, "--num_shards", 5)) == expected


def stops_at_the_last_shard(work, index, *arguments):
    """A stand-in for the third stage."""
    return write_shard(work, index, *arguments) if index < 3 else 1 / 0


write_shard = shards_stage._write_shard


def test_an_interrupted_preparation_continues_with_another_number_of_shards(tmp_path, corpus, monkeypatch):
    expected = content(prepare_set(*corpus, tmp_path / "expected", "--num_shards", 3))
    with monkeypatch.context() as patch:
        patch.setattr(shards_stage, "_write_shard", stops_at_the_last_shard)
        with pytest.raises(ZeroDivisionError):
            prepare_set(*corpus, tmp_path / "out", "--num_shards", 4)
    assert content(prepare_set(*corpus, tmp_path / "out", "--num_shards", 3)) == expected


def test_ray_gives_the_same_set_and_repeats_a_lost_piece(tmp_path, corpus, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # no token in the home directory
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    ray = pytest.importorskip("ray")
    expected = content(prepare_set(*corpus, tmp_path / "here"))
    monkeypatch.setattr(pairs_stage, "_draw_piece", dies_once)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert content(prepare_set(*corpus, tmp_path / "there", "--runner", "ray")) == expected
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
