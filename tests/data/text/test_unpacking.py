"""Compressed files and pipes."""

import bz2
import gzip
import re

import pytest
import zstandard

from data.text import unpacking
from data.text.unpacking import unpack
from tests.data.corpus import DOCUMENTS, PLAIN, read
from utils import progress
from utils.errors import UserError


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.gz", gzip.compress), ("a.bz2", bz2.compress), ("a.zst", zstandard.ZstdCompressor().compress)],
)
def test_compressed_files(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(PLAIN.encode()))
    (file,) = unpack(tmp_path, [tmp_path / name])
    assert read(file) == DOCUMENTS
    file.unlink()
    (tmp_path / name).write_bytes(pack(PLAIN.encode())[:-9])
    with pytest.raises(UserError, match=name):
        unpack(tmp_path, [tmp_path / name])


def test_unpacking_shows_its_progress(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", iter(range(0, 9999, 11)).__next__)
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(PLAIN.encode()))
    size = packed.stat().st_size
    unpack(tmp_path, [packed])
    assert re.fullmatch(f"unpack: {size} of {size} B, [0-9]+ B/s, 0 s left\n", capsys.readouterr().err)
    unpacking.spool(tmp_path / "input-000000", tmp_path / "copy")
    assert re.search(r"input-000000: [0-9]+ B, [0-9]+ B/s\n", capsys.readouterr().err)
