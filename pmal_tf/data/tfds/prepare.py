"""Downloading and preparing datasets of TensorFlow Datasets (TFDS)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.data_folder import (
    check_space,
    claimed,
    is_unwritable,
    manual_folder,
    unwritable,
)
from pmal_tf.data.tfds.fetch import check_reachable, network_reason
from pmal_tf.data.tfds.read import find_prepared, resolve_data_dir
from pmal_tf.data.tfds.verify import verify_prepared
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.errors import PmalError, first_line

# Files that only registered users may download, by dataset, and how much of them is
# prepared: ImageNet-LT keeps 186 thousand of 1.33 million images.
_IMAGENET_TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_BY_USER = {"imagenet2012": _IMAGENET_TARS, "imagenet_lt": _IMAGENET_TARS}
_SHARE = {"imagenet2012": 1.0, "imagenet_lt": 0.14}
_IMAGENET_SITE = "https://image-net.org/download-images"


@dataclass(frozen=True)
class _Download:
    """A file that TFDS downloads for a dataset: its address and size in bytes."""

    url: str
    size: int


def prepare_all(names: Sequence[str], options: SourceOptions) -> str:
    """Prepares datasets, and returns a line on where each lies.

    Raises:
        PmalError: If that fails.
    """
    return "\n".join(prepare_tfds(name, options) for name in names)


def prepare_tfds(name: str, options: SourceOptions) -> str:
    """Downloads, prepares and verifies a dataset that TFDS knows.

    Args:
        name: Its name in TFDS.
        options: `data_dir` is the folder of prepared datasets.

    Returns:
        A line on where it lies.

    Raises:
        PmalError: If that fails; nothing half-prepared is left.
    """

    def make_builder(root: Path) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder(name, data_dir=root)

    return prepare_dataset(name, options, make_builder, check_downloads)


def prepare_dataset(
    name: str,
    options: SourceOptions,
    make_builder: Callable[[Path], Any],
    collect: Callable[[Any, Path], None],
) -> str:
    """Prepares a dataset with a TFDS builder where it is missing, and verifies it.

    Args:
        name: Name of the builder.
        options: `data_dir` is the folder of prepared datasets.
        make_builder: Makes the builder for that folder.
        collect: Called with both before TFDS starts. Gets what the builder cannot
            download itself, and raises a `PmalError` where something is out of reach.

    Returns:
        A line on where the dataset lies.

    Raises:
        PmalError: If that fails; nothing half-prepared is left.
    """
    root = resolve_data_dir(options.data_dir)
    state = "was already prepared in"
    if not any((root / name).glob("[0-9]*/dataset_info.json")):
        state = "was prepared in"
        builder = make_builder(root)
        with claimed(root, name, _downloads_of(builder)):
            collect(builder, root)
            _generate(builder, root)
    folder = find_prepared(name, options.data_dir)
    counts = verify_prepared(folder)
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"{name} {folder.name} {state} {folder} and is whole: {images} images"


def check_downloads(builder: Any, root: Path) -> None:
    """Checks that TFDS can have all files of a dataset, before it starts.

    TFDS itself tries an unreachable host again for minutes.

    Args:
        builder: The dataset's builder.
        root: Folder of prepared datasets.

    Raises:
        PmalError: If a file has to be placed by hand, or cannot be downloaded now, or
            the disk is too full.
    """
    manual = manual_folder(root)
    _check_placed(builder, root)
    downloads = _downloads_of(builder)
    stored = _stored_urls(root / "downloads", builder.name)
    wanted = {
        file: download
        for file, download in downloads.items()
        if download.url not in stored and not (manual / file).is_file()
    }
    # What is prepared takes about as much as what it is made from.
    needed = sum(download.size for download in wanted.values())
    needed += sum(download.size for download in downloads.values())
    for file in _BY_USER.get(builder.name, ()):
        needed += int(_SHARE[builder.name] * (manual / file).stat().st_size)
    check_space(root, needed)
    urls = {file: download.url for file, download in wanted.items()}
    check_reachable(urls.values(), by_hand(builder, root, urls))


def by_hand(builder: Any, root: Path, urls: Mapping[str, str]) -> str:
    """Returns a sentence on how to get a dataset without a connection.

    Args:
        builder: The dataset's builder.
        root: Folder of prepared datasets.
        urls: Addresses of the missing files, by the name that TFDS expects.
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


def _check_placed(builder: Any, root: Path) -> None:
    """Checks for the files that only registered users may download.

    TFDS goes on without one of them, and prepares fewer splits.

    Raises:
        PmalError: If one is missing.
    """
    manual = manual_folder(root)
    files = _BY_USER.get(builder.name, ())
    absent = [file for file in files if not (manual / file).is_file()]
    if absent:
        raise PmalError(
            f"Dataset {builder.name!r} is made from files that only registered users "
            f"may download; expected {' and '.join(files)} in {str(manual)!r}. "
            f"Received: no {' and no '.join(absent)}. Get them from {_IMAGENET_SITE}, "
            "put them there and run the command again; or "
            f"{_copy_prepared(builder, root)}"
        )


def _downloads_of(builder: Any) -> dict[str, _Download]:
    """Returns what TFDS downloads for a dataset, by the name that a file has there."""
    by_user = _BY_USER.get(builder.name, ())
    downloads = {}
    for url, info in (builder.url_infos or {}).items():
        file = info.filename or PurePosixPath(urlsplit(url).path).name
        if file not in by_user:
            downloads[file] = _Download(url, int(info.size))
    return downloads


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
    """Lets TFDS download and prepare.

    Raises:
        PmalError: If that fails.
    """
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
    if is_unwritable(error) or isinstance(error, disk_errors):
        return unwritable(root, error)
    network_errors = (requests.RequestException, tfds.download.DownloadError)
    if isinstance(error, network_errors):
        urls = {file: item.url for file, item in _downloads_of(builder).items()}
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
