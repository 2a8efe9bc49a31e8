"""Finished sets on file systems that fsspec knows: `s3://bucket/records`, `gs://…`, `file:///mnt/shared/records`.

Unfinished work needs a directory that can be written to in place, so that a set is made in one and then copied whole.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.records.ofrecord import DATASET_JSON
from utils.errors import UserError


class StorageError(UserError):
    """A file system did not do what was asked: nothing that is done is lost."""


def is_url(path: str) -> bool:
    """Whether this names something on one of fsspec's file systems."""
    return "://" in path


@contextmanager
def _file_system(url: str) -> Iterator[tuple[Any, str]]:
    """The file system and the path in it; whatever its library raises becomes a StorageError."""
    import fsspec

    try:
        yield fsspec.core.url_to_fs(url)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise StorageError(f"{url} cannot be used ({reason}); run the same command again to go on.") from None


def stored_plan(url: str) -> str | None:
    """The `plan_sha256` of the finished set there; "" where a set has none, None where there is no set."""
    with _file_system(url) as (files, path):
        if not files.exists(f"{path}/{DATASET_JSON}"):
            return None
        return str(json.loads(files.cat_file(f"{path}/{DATASET_JSON}")).get("plan_sha256", ""))


def remove(url: str) -> None:
    """Removes a finished set's sign that it is one: its files are about to be written over."""
    with _file_system(url) as (files, path):
        files.rm_file(f"{path}/{DATASET_JSON}")


def upload(file: Path, url: str) -> None:
    """Copies one file into the directory there."""
    with _file_system(url) as (files, path):
        files.makedirs(path, exist_ok=True)
        files.put_file(str(file), f"{path}/{file.name}")
        if files.info(f"{path}/{file.name}")["size"] != file.stat().st_size:
            raise OSError(f"{file.name} did not arrive whole")
