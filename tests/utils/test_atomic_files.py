"""Files and directories are complete or absent."""

import os

import pytest

from utils.atomic_files import atomic_directory, atomic_file, remove_directory, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "a.txt"
    write_atomically(file, b"old")
    with atomic_file(file) as output:
        output.write(b"ne")
        output.flush()
        assert file.read_bytes() == b"old"
        output.write(b"w")
    assert file.read_bytes() == b"new"
    write_atomically(file, (bytes([number]) for number in range(5)))
    assert file.read_bytes() == bytes(range(5))
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_write_changes_nothing(tmp_path):
    file = tmp_path / "a.txt"
    write_atomically(file, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(file) as output:
        output.write(b"new")
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_no_unfinished_file(tmp_path):
    with pytest.raises(OSError, match="No space"), atomic_file(tmp_path / "a") as output:
        os.dup2(os.open("/dev/full", os.O_WRONLY), output.fileno())  # writing fails, and so does closing
        output.write(b"x")
    assert not os.listdir(tmp_path)


def test_a_directory_is_replaced_whole(tmp_path):
    directory = tmp_path / "d"
    for content in ("old", "new"):
        with atomic_directory(directory) as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / content).write_text(content)
    assert [path.name for path in directory.rglob("*")] == ["sub", "new"]
    with pytest.raises(KeyboardInterrupt), atomic_directory(directory) as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in directory.rglob("*")] == ["sub", "new"] and os.listdir(tmp_path) == ["d"]
    remove_directory(directory)
    remove_directory(directory)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("path", ["/", "."])
def test_a_path_without_a_name_is_a_directory(path):
    with pytest.raises(IsADirectoryError):
        write_atomically(path, b"content")
