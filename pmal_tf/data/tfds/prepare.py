"""Downloading and preparing datasets of TensorFlow Datasets (TFDS)."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.data_folder import (
    check_space,
    claimed,
    manual_folder,
    unwritable,
)
from pmal_tf.data.tfds.fetch import check_reachable, network_reason
from pmal_tf.data.tfds.read import (
    find_prepared,
    prepared_versions,
    resolve_data_dir,
    verify_prepared,
)
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.errors import PmalError, first_line

# Files that only registered users may download, and how much of them each dataset
# keeps: ImageNet-LT has 186 thousand of 1.33 million images.
_IMAGENET_TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_SHARE_OF_TARS = {"imagenet2012": 1.0, "imagenet_lt": 0.14}
_IMAGENET_SITE = "https://image-net.org/download-images"
_UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT),
}


def prepare_all(names: Sequence[str], options: SourceOptions) -> str:
    """Prepares datasets that TFDS knows, and returns a line on where each lies.

    Raises:
        PmalError: If that fails; nothing half-prepared is left.
    """
    return "\n".join(prepare_dataset(name, options, check_downloads) for name in names)


def prepare_dataset(
    name: str, options: SourceOptions, collect: Callable[[Any, Path], None]
) -> str:
    """Prepares a dataset that TFDS knows where it is missing, and verifies it.

    `collect` is called with its builder and the folder of prepared datasets before TFDS
    starts. It gets what the builder cannot download itself, and raises a `PmalError`
    where something is out of reach.
    """
    import tensorflow_datasets as tfds

    root = resolve_data_dir(options.data_dir)
    state = "was already prepared in"
    if not prepared_versions(name, root):
        state = "was prepared in"
        builder = tfds.builder(name, data_dir=root)
        with claimed(root, name, _downloads_of(builder)):
            collect(builder, root)
            _generate(builder, root)
    folder = find_prepared(name, options.data_dir)
    counts = verify_prepared(folder)
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"{name} {folder.name} {state} {folder} and is whole: {images} images"


def check_downloads(builder: Any, root: Path) -> None:
    """Checks that TFDS can have all files of a dataset, before it starts.

    TFDS itself tries an unreachable host again for minutes, and goes on without a file
    that should have been placed by hand, with fewer splits.

    Raises:
        PmalError: If a file has to be placed by hand, or cannot be downloaded now, or
            the disk is too full.
    """
    manual = manual_folder(root)
    by_user = _by_user(builder)
    absent = [file for file in by_user if not (manual / file).is_file()]
    if absent:
        raise PmalError(
            f"Dataset {builder.name!r} is made from files that only registered users "
            f"may download; expected {' and '.join(by_user)} in {str(manual)!r}. "
            f"Received: no {' and no '.join(absent)}. Get them from {_IMAGENET_SITE}, "
            "put them there and run the command again; or "
            f"{_copy_prepared(builder, root)}"
        )
    downloads = _downloads_of(builder)
    stored = _stored_urls(root / "downloads", builder.name)
    wanted = {
        file: url
        for file, (url, _) in downloads.items()
        if url not in stored and not (manual / file).is_file()
    }
    # What is prepared takes about as much as what it is made from.
    needed = sum(size for _, size in downloads.values())
    needed += sum(downloads[file][1] for file in wanted)
    for file in by_user:
        size = (manual / file).stat().st_size
        needed += int(_SHARE_OF_TARS[builder.name] * size)
    check_space(root, needed)
    check_reachable(wanted.values(), by_hand(builder, root, wanted))


def by_hand(builder: Any, root: Path, urls: Mapping[str, str]) -> str:
    """Returns a sentence on how to get a dataset without a connection.

    `urls` are the addresses of the missing files, by the name that TFDS expects.
    """
    files = ", ".join(f"{url} as {file}" for file, url in urls.items())
    return (
        "Mend the connection and run the command again. Or get it by hand: save "
        f"{files} in {str(manual_folder(root))!r} and run the command again; or "
        f"{_copy_prepared(builder, root)}"
    )


def _copy_prepared(builder: Any, root: Path) -> str:
    version = f"{builder.name}/{builder.version}"
    return (
        f"copy the prepared folder {version} of another machine to "
        f"{str(root / version)!r}."
    )


def _by_user(builder: Any) -> Iterable[str]:
    """Returns the files of a dataset that only registered users may download."""
    return _IMAGENET_TARS if builder.name in _SHARE_OF_TARS else ()


def _downloads_of(builder: Any) -> dict[str, tuple[str, int]]:
    """Returns address and size in bytes of what TFDS downloads, by the file's name."""
    named = {
        info.filename or PurePosixPath(urlsplit(url).path).name: (url, int(info.size))
        for url, info in (builder.url_infos or {}).items()
    }
    by_user = _by_user(builder)
    return {file: value for file, value in named.items() if file not in by_user}


def _stored_urls(downloads: Path, name: str) -> set[str]:
    """Returns the addresses whose files TFDS has already.

    TFDS writes `<file>.INFO`, which names the address, when a download is complete.
    """
    stored: set[str] = set()
    for note in (*downloads.glob("*.INFO"), *(downloads / name).rglob("*.INFO")):
        if note.with_suffix("").is_file():
            with contextlib.suppress(ValueError, KeyError):  # Not TFDS's, or damaged.
                stored.update(json.loads(note.read_text())["urls"])
    return stored


def _generate(builder: Any, root: Path) -> None:
    """Lets TFDS download and prepare; its errors become a `PmalError`."""
    import tensorflow_datasets as tfds

    # No detour over the bucket of prepared datasets, which is closed.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with quiet_libraries():  # Its progress bars are no log and stay.
            builder.download_and_prepare(download_config=config)
    except PmalError:
        raise
    except Exception as error:  # Many libraries lie between here and the network.
        raise _explained(error, builder, root) from error


def _explained(error: Exception, builder: Any, root: Path) -> PmalError:
    """Tells a full disk, a broken connection and unusable files from each other."""
    import requests
    import tensorflow as tf
    import tensorflow_datasets as tfds

    disk_errors = (tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError)
    is_os_error = isinstance(error, OSError) and error.errno in _UNWRITABLE
    if is_os_error or isinstance(error, disk_errors):
        return unwritable(root, error)
    if isinstance(error, requests.RequestException | tfds.download.DownloadError):
        urls = {file: url for file, (url, _) in _downloads_of(builder).items()}
        return PmalError(
            f"The download of dataset {builder.name!r} broke off; finished files are "
            f"kept. Received: {network_reason(error)}. {by_hand(builder, root, urls)}"
        )
    return PmalError(
        f"Dataset {builder.name!r} could not be prepared in {str(root)!r}. Received: "
        f"{type(error).__name__}: {first_line(error)}. Replace a file in "
        f"{str(manual_folder(root))!r} if it is the cause, and run the command again; "
        f"or {_copy_prepared(builder, root)}"
    )
