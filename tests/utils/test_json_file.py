"""JSON files that users wrote: content, and one sentence for each mistake."""

import tracemalloc

import pytest

from utils.errors import UserError
from utils.json_file import read_json, read_settings


def test_valid_files_are_read(tmp_path):
    (tmp_path / "a.json").write_text('{"ü": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == read_settings(tmp_path / "a.json") == {"ü": [1, None]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": ', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "must contain one JSON object"),
        (b" " * (11 << 20), "is larger than 10 MB"),
    ],
)
def test_a_bad_file_is_named_in_one_sentence(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"^--config .*a\.json {words}"):
        read_settings(tmp_path / "a.json", "--config ")


def test_a_byte_order_mark_is_removed(tmp_path):
    (tmp_path / "a.json").write_text('{"ü": 1}', encoding="utf-8-sig")
    assert read_settings(tmp_path / "a.json") == {"ü": 1}


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_read(path):
    with pytest.raises(UserError, match=r"cannot be read: it is a device\.$"):
        read_settings(path)


def test_a_missing_file_and_a_directory(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_settings(path)


def test_memory_is_that_of_the_file_and_not_of_the_limit(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    tracemalloc.start()
    try:
        assert read_json(tmp_path / "a.json") == [1]
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
