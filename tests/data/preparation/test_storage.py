"""Sets that are copied to a URL."""

import fsspec
import pytest

from data.ofrecord import open_records
from data.preparation import pretraining
from data.preparation.storage import StorageError, upload
from tests.data.corpus import content, prepare_set
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("many_pieces")


def test_a_set_is_copied_to_a_url(tmp_path, corpus, monkeypatch, capsys):
    expected = content(prepare_set(*corpus, tmp_path / "here"))
    url, work = f"file://{tmp_path}/far/away", ("--work_dir", tmp_path / "work")
    copied = []

    def breaks_once(file, url):
        copied.append(file.name)
        if len(copied) == 3:
            raise StorageError("the connection was lost; run the same command again to continue.")
        upload(file, url)

    monkeypatch.setattr(pretraining, "upload", breaks_once)
    with pytest.raises(StorageError):
        prepare_set(*corpus, url, *work)
    assert not (tmp_path / "far/away/dataset.json").exists()
    prepare_set(*corpus, url, *work)
    assert copied.count(copied[0]) == 1 and copied[-1] == "dataset.json"
    assert content(tmp_path / "far/away") == expected
    assert len(open_records(tmp_path / "far/away")) > 100
    assert not list((tmp_path / "work").iterdir())
    prepare_set(*corpus, url, *work)
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        prepare_set(*corpus, url, *work, "--random_seed", 2)
    prepare_set(*corpus, url, *work, "--random_seed", 2, "--overwrite_output_dir")
    assert content(tmp_path / "far/away") != expected
    assert not list((tmp_path / "work").iterdir())


def test_file_systems_without_directories(tmp_path, corpus):
    expected = content(prepare_set(*corpus, tmp_path / "here"))
    prepare_set(*corpus, "memory://bucket/records", "--work_dir", tmp_path / "work")
    files = fsspec.filesystem("memory")
    assert {name: files.cat_file(f"/bucket/records/{name}") for name in expected} == expected
    assert files.exists("/bucket/records/dataset.json")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--output_dir", "memory://x"), "pass --work_dir"),
        (("--work_dir", "x"), "--work_dir is only used"),
        (("--output_dir", "nonsense://x", "--work_dir", "w"), "nonsense://x cannot be used"),
    ],
)
def test_unusable_urls(tmp_path, corpus, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        prepare_set(*corpus, tmp_path / "out", *flags)
