"""The report: its figures, its warnings."""

import json
import re
import zlib

import numpy as np
import pytest

from configs.cli import parse
from configs.prepare import InspectConfig
from data.ofrecord import open_records
from data.preparation import tokenize_stage
from data.preparation.inspection import inspect
from tests.data.corpus import VOCAB, S, documents, prepare_set

pytestmark = pytest.mark.usefixtures("many_pieces")


def test_the_report_counts_what_the_records_hold(tmp_path, corpus):
    output = prepare_set(*corpus, tmp_path / "out")
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
    assert not re.search("http|url|src|href|<script|<link|@import", page)  # the page loads nothing
    label = f"{report['label_1_share']:.1%}"
    assert f'width: {label}"></div></td><td>{label}' in page  # the bar is as wide as its value
    # Counted again from the records, the figures are the same.
    inspect(parse(InspectConfig, ["--input_dir", str(output), "--report_dir", str(tmp_path / "again")]))
    again = json.loads((tmp_path / "again/report.json").read_text())
    assert again.pop("samples") and report.pop("samples")
    assert again == report
    # The figures of the text are unknown for a set of another program.
    for name in ("report.json", "report.html", "dataset.json"):
        (output / name).unlink()
    inspect(parse(InspectConfig, ["--input_dir", str(output)]))
    again = json.loads((output / "report.json").read_text())
    assert again["length_histogram"] == report["length_histogram"] and "corpus" not in again


def test_pairs_that_training_swaps_have_no_label_share(tmp_path, corpus):
    output = prepare_set(*corpus, tmp_path / "out", "--objective", "sop", "--masking", "dynamic")
    inspect(parse(InspectConfig, ["--input_dir", str(output), "--report_dir", str(tmp_path / "again")]))
    for directory in (output, tmp_path / "again"):
        report = json.loads((directory / "report.json").read_text())
        assert "label_1_share" not in report and "labels" not in " ".join(report["warnings"])
        assert "in order" not in (directory / "report.html").read_text().split("<h2>Samples")[0]


def test_warnings(tmp_path, corpus, capsys):
    text, vocab = corpus
    text.write_text("\n\n".join(["wa wb. wc", "unheard of words", "wa wb"] * 20))
    report = json.loads((prepare_set(text, vocab, tmp_path / "out") / "report.json").read_text())
    printed = capsys.readouterr().err
    for words in ("[UNK]", "are duplicates", "have a single sentence", "padding"):
        assert words in " ".join(report["warnings"])
        assert words in printed


def test_a_repeated_line_is_found_from_a_sample(tmp_path, corpus, monkeypatch):
    text, vocab = corpus
    line = next(f"wa wb w{letter}" for letter in "cdefgh" if zlib.crc32(f"wa wb w{letter}".encode()) % 50)
    text.write_text("\n\n".join("\n".join([*document, line]) for document in documents(60)) + "\n")
    lines = [line for line in text.read_text().splitlines() if line]
    monkeypatch.setattr(tokenize_stage, "_sampling_rate", lambda pieces: 50)
    prepare_set(text, vocab, tmp_path / "out")
    share = json.loads((tmp_path / "out/report.json").read_text())["corpus"]["duplicate_lines_share"]
    assert abs(share - 59 / len(lines)) < 0.02


def test_warning_about_lines_longer_than_records(tmp_path, corpus):
    text, vocab = corpus
    text.write_text("wa wb wc " * 20_000 + "\n\n" + "wd we " * 30_000)
    report = json.loads((prepare_set(text, vocab, tmp_path / "out", "--num_shards", 1) / "report.json").read_text())
    assert "the surplus is cut off" in " ".join(report["warnings"])
