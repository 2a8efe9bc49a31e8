"""Stores finished sets on fsspec file systems: `s3://bucket/records`, `gs://…`, `file:///mnt/shared/records`.

A set is built in a local directory and then copied, because unfinished work needs local files.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.prepare import PretrainingDataConfig
from data.records.dataset_json import DATASET_JSON
from utils.errors import UserError


class StorageError(UserError):
    """A file system failed. Finished work is not lost."""


def set_directory(config: PretrainingDataConfig) -> Path:
    """The local directory in which a set is built."""
    return Path(config.work_dir or config.output_dir)


def is_url(path: str) -> bool:
    """Whether a path is a URL of one of fsspec's file systems."""
    return "://" in path


@contextmanager
def _file_system(url: str) -> Iterator[tuple[Any, str]]:
    """The file system and the path in it; any error of its library becomes a StorageError."""
    import fsspec

    try:
        yield fsspec.core.url_to_fs(url)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise StorageError(
            f"{url} cannot be used ({reason}): fix the problem and run the same command again to continue."
        ) from None


def stored_plan(url: str) -> str | None:
    """The `plan_sha256` of the finished set at a URL; "" if the set has none, None if there is no set."""
    with _file_system(url) as (files, path):
        if not files.exists(f"{path}/{DATASET_JSON}"):
            return None
        return str(json.loads(files.cat_file(f"{path}/{DATASET_JSON}")).get("plan_sha256", ""))


def remove(url: str) -> None:
    """Mark the set at a URL as unfinished, because its files are about to be replaced."""
    with _file_system(url) as (files, path):
        files.rm_file(f"{path}/{DATASET_JSON}")


def upload(file: Path, url: str) -> None:
    """Copy one file into the directory at a URL."""
    with _file_system(url) as (files, path):
        files.makedirs(path, exist_ok=True)
        files.put_file(str(file), f"{path}/{file.name}")
        if files.info(f"{path}/{file.name}")["size"] != file.stat().st_size:
            raise OSError(f"{file.name} is incomplete after copying")
