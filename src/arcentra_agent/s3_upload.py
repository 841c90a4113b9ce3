"""The program that uploads files into a bucket, run by the plugin `s3` as a process of the step.

It prints a line a file and ends with 1 when anything was not uploaded.
"""

import json
import mimetypes
import os
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore.store import RetryConfig

# Together at most 64 MiB in memory.
_FILES_AT_ONCE, _PARTS_AT_ONCE = 4, 2
_PART_BYTES = 8 * 1024 * 1024
# S3 takes 10,000 parts a file.
_MOST_PARTS = 9_000


class UploadError(Exception):
    """Something cannot be uploaded; the text names it."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file and where it goes."""

    file: Path
    key: str
    size: int


def items_of(path: Path, workspace: Path, prefix: str) -> list[Item]:
    """Return the file, or all files of the folder, by key. A folder gives its content and not its own name.

    Raises:
        UploadError: when there is nothing, or something leads out of the workspace, is no file, or has no proper name.
        OSError: when something cannot be read.
    """
    root = workspace.resolve()
    if path.is_dir():
        found = [(file, file.relative_to(path).as_posix()) for file in _files_below(path)]
        if not found:
            raise UploadError(f"there is no file in {path}")
    else:
        found = [(path, path.name)]
    return [_item(file, f"{prefix}/{name}" if prefix else name, root) for file, name in sorted(found)]


def _files_below(folder: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(folder, onerror=_raise):
        for name in folders:
            if Path(directory, name).is_symlink():
                raise UploadError(f"{Path(directory, name)} is a link to a folder; such links are not followed")
        yield from (Path(directory, name) for name in files)


def _raise(error: OSError) -> None:
    raise error


def _item(file: Path, key: str, root: Path) -> Item:
    try:
        real = file.resolve(strict=True)
    except (FileNotFoundError, RuntimeError) as error:
        raise UploadError(f"{file} is a link that leads nowhere") from error
    if not real.is_relative_to(root):
        raise UploadError(f"{file} is a link that leads out of the workspace")
    status = real.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UploadError(f"{file} is not a file")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise UploadError(f"{file!r} has a name that is not UTF-8") from error
    return Item(real, key, status.st_size)


def upload(store: S3Store, items: list[Item], bucket: str) -> None:
    """Upload all of them, some at a time, and tell of each.

    Raises:
        UploadError: for the first that fails.
    """
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        try:
            for item in pool.map(lambda item: _put(store, item), items):
                _tell(f"uploaded {item.key}, {item.size} bytes")
        except UploadError:
            pool.shutdown(cancel_futures=True)
            raise
    _tell(f"uploaded {len(items)} files, {sum(item.size for item in items)} bytes, to {bucket}")


def _put(store: S3Store, item: Item) -> Item:
    kind, encoding = mimetypes.guess_type(item.key)
    attributes = {"Content-Type": kind} if kind and not encoding else None
    part = max(_PART_BYTES, item.size // _MOST_PARTS)
    try:
        obstore.put(store, item.key, item.file, attributes=attributes, chunk_size=part, max_concurrency=_PARTS_AT_ONCE)
    except (BaseError, OSError) as error:
        raise UploadError(f"cannot upload {item.key}: {error}") from error
    return item


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Do what the first argument says, a JSON object."""
    order: dict[str, str] = json.loads(sys.argv[1])
    try:
        items = items_of(Path(order["path"]), Path(order["workspace"]), order["prefix"])
        upload(_store(order), items, order["bucket"])
    except (UploadError, BaseError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _store(order: dict[str, str]) -> S3Store:
    """Return the bucket; who we are to it stands in the environment."""
    bucket, region, endpoint = order["bucket"], order["region"], order["endpoint"]
    retries: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
    if not endpoint:
        return S3Store(bucket, region=region, retry_config=retries)
    is_plain = endpoint.startswith("http://")
    return S3Store(
        bucket, region=region, endpoint=endpoint, client_options={"allow_http": is_plain}, retry_config=retries
    )


if __name__ == "__main__":
    sys.exit(main())
