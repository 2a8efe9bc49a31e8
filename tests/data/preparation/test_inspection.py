"""`prepare_data.py inspect` and `verify`."""

import os
import shutil
import signal

import numpy as np
import pytest

from configs.cli import parse
from configs.prepare import InspectConfig, VerifyConfig
from data.ofrecord import open_records
from data.preparation import inspection
from data.preparation.inspection import inspect, verify
from data.records.shards import ShardWriter
from tests.data.corpus import VOCAB, S, prepare_set
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("many_pieces")


def dies(directory, shard, vocab_size):
    """A stand-in for the check of a shard."""
    if shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_reported(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(inspection, "_verify_shard", dies)
    with pytest.raises(UserError, match="a worker process was killed"):
        verify(VerifyConfig(str(prepare_set(*corpus, tmp_path / "out")), num_workers=2))


def test_inspect_shows_and_verify_finds(tmp_path, corpus, capsys):
    output = prepare_set(*corpus, tmp_path / "out")
    inspect(parse(InspectConfig, ["--input_dir", str(output), "--num_samples", "2"]))
    shown = capsys.readouterr().out
    assert "input_ids              int32[37]" in shown
    assert shown.count("[CLS]") == 2
    assert "the report is" in shown
    assert "masked: " in shown
    check = parse(VerifyConfig, ["--input_dir", str(output), "--num_workers", "2"])
    verify(check)
    assert "intact" in capsys.readouterr().out
    shard = output / "part-00002"
    data = bytearray(shard.read_bytes())
    position = data.index(b"segment_ids") + 20
    assert data[position] == 0
    data[position] = 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="part-00002: its checksum"):
        verify(check)
    data[position] = 2
    shard.write_bytes(data)
    with pytest.raises(UserError, match="part-00002: record 0: segment_ids has the value 2"):
        verify(check)
    assert "part-00002" not in capsys.readouterr().out  # said once, in the error


@pytest.mark.parametrize("without_vocab", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_ids", -1), ("input_ids", len(VOCAB)), ("masked_lm_ids", -3), ("masked_lm_weights", np.nan),
        ("masked_lm_weights", -1), ("masked_lm_positions", S), ("next_sentence_labels", 2), ("input_mask", 2),
    ],
)  # fmt: skip
def test_values_out_of_range_are_found(tmp_path, corpus, without_vocab, name, value):
    """Also without dataset.json, and by `inspect`."""
    records = open_records(prepare_set(*corpus, tmp_path / "out"))
    batch = records.read(np.arange(9))
    batch[name][5, -1] = value
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    with ShardWriter(directory / "part-0", records.schema) as writer:
        writer.write_batch(batch)
    if not without_vocab or value == len(VOCAB):
        shutil.copy(corpus[1], directory / "vocab.txt")
    with pytest.raises(UserError, match=f"record 5: {name} has the value {value}"):
        verify(parse(VerifyConfig, ["--input_dir", str(directory)]))
    more = [] if (directory / "vocab.txt").exists() else ["--vocab_file", str(corpus[1])]
    with pytest.raises(UserError, match=f"record 5: {name} has the value {value}"):
        inspect(parse(InspectConfig, ["--input_dir", str(directory), "--num_samples", "9", *more]))
