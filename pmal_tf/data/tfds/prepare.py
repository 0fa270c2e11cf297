"""Downloading and preparing datasets of TensorFlow Datasets (TFDS)."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from filelock import Timeout

from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.fetch import check_reachable, network_reason
from pmal_tf.data.tfds.read import (
    find_prepared,
    prepared_versions,
    resolve_data_dir,
    verify_prepared,
)
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.files import locked

# Files that only registered users may download, and how much of them each dataset
# keeps: ImageNet-LT has 186 thousand of 1.33 million images.
_IMAGENET_TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_SHARE_OF_TARS = {"imagenet2012": 1.0, "imagenet_lt": 0.14}
_IMAGENET_SITE = "https://image-net.org/download-images"
_UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT),
}


def tfds_dataset(
    name: str,
    class_names: tuple[str, ...],
    load: Callable[[SourceOptions], tuple[LabelledImages, LabelledImages]],
    needs: Sequence[str],
    *,
    natural: bool = True,
    prepare: Callable[[SourceOptions], str] | None = None,
) -> Dataset:
    """Makes a dataset that `needs` what TFDS calls by these names.

    See `Source` for the rest; without `prepare`, TFDS prepares what is needed.
    """

    def open_dataset(options: SourceOptions) -> Source:
        return Source(
            name=name,
            class_names=class_names,
            natural=natural,
            load=functools.partial(load, options),
            check=lambda: [find_prepared(need, options.data_dir) for need in needs],
        )

    return Dataset(name, open_dataset, prepare or functools.partial(prepare_all, needs))


def prepare_all(names: Sequence[str], options: SourceOptions) -> str:
    """Prepares datasets that TFDS knows, and returns a line on where each lies."""
    return "\n".join(prepare_dataset(name, options, check_downloads) for name in names)


def prepare_dataset(
    name: str, options: SourceOptions, collect: Callable[[Any, Path], None]
) -> str:
    """Prepares a dataset that TFDS knows where it is missing, and verifies it.

    `collect` is called with its builder and the folder of prepared datasets before TFDS
    starts. It gets what the builder cannot download itself, and raises a `PmalError`
    where something is out of reach.

    Raises:
        PmalError: If that fails; nothing half-prepared is left.
    """
    import tensorflow_datasets as tfds

    root = resolve_data_dir(options.data_dir)
    state = "was already prepared in"
    if not prepared_versions(name, root):
        state = "was prepared in"
        builder = tfds.builder(name, data_dir=root)
        with _claimed(root, builder):
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


def check_space(root: Path, needed: int) -> None:
    """Raises a `PmalError` if the disk of a folder has no room for so many bytes.

    TFDS has such a check, but its datasets no longer state the sizes that it goes by.
    """
    free = shutil.disk_usage(root).free
    if free < needed:
        raise PmalError(
            f"Not enough disk space in {str(root)!r}. Needed: about {needed / 1e9:.1f} "
            f"GB. Received: {free / 1e9:.1f} GB. Make room, or choose another folder "
            "with --data_dir."
        )


def manual_folder(root: Path) -> Path:
    """Returns where TFDS looks for files that were placed by hand."""
    return root / "downloads" / "manual"


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


@contextlib.contextmanager
def _claimed(root: Path, builder: Any) -> Iterator[None]:
    """Holds the folder of a dataset for this process while it is prepared.

    What an earlier, killed preparation left half-done is removed before, and what this
    one leaves half-done after, together with folders that it made for nothing.
    """
    folder = root / builder.name
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / "preparing.lock"
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        try:
            stack.enter_context(locked(lock))
        except Timeout as error:
            raise PmalError(
                "Another process is preparing this dataset. Received: "
                f"{str(folder)!r} is locked. Wait until it has finished."
            ) from error
        except OSError as error:
            raise _unwritable(folder, error) from error
        stack.callback(lock.unlink, missing_ok=True)
        stack.callback(_remove_leftovers, root, builder)
        _remove_leftovers(root, builder)
        yield


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes the folders that are empty, inner ones first."""
    for folder in folders:
        with contextlib.suppress(OSError):  # It is not empty: the usual case.
            folder.rmdir()


def _remove_leftovers(root: Path, builder: Any) -> None:
    """Removes what TFDS left half-done; whole downloads stay.

    TFDS names it `incomplete.<random>_<version>` while it generates,
    `<file>.tmp.<random>` while it downloads, and `incomplete.<random>_<method>.<file>`
    while it unpacks, in a folder that all datasets share.
    """
    downloads = root / "downloads"
    own = downloads / builder.name
    files = {path.name for path in own.rglob("*")} | set(_downloads_of(builder))
    endings = tuple(f".{file}" for file in files)
    unpacked = (downloads / "extracted").glob("incomplete.*_*.*")
    leftovers = [
        *(root / builder.name).glob("incomplete.*"),
        *own.rglob("*.tmp.*"),
        *(path for path in unpacked if path.name.endswith(endings)),
    ]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _generate(builder: Any, root: Path) -> None:
    """Lets TFDS download and prepare; its errors become a `PmalError`."""
    import requests
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # No detour over the bucket of prepared datasets, which is closed.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    disk_errors = (tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError)
    try:
        with quiet_libraries():  # Its progress bars are no log and stay.
            builder.download_and_prepare(download_config=config)
    except PmalError:
        raise
    except (requests.RequestException, tfds.download.DownloadError) as error:
        urls = {file: url for file, (url, _) in _downloads_of(builder).items()}
        raise PmalError(
            f"The download of dataset {builder.name!r} broke off; finished files are "
            f"kept. Received: {network_reason(error)}. {by_hand(builder, root, urls)}"
        ) from error
    except Exception as error:  # Many libraries lie between here and the disk.
        is_os_error = isinstance(error, OSError) and error.errno in _UNWRITABLE
        if is_os_error or isinstance(error, disk_errors):
            raise _unwritable(root, error) from error
        raise PmalError(
            f"Dataset {builder.name!r} could not be prepared in {str(root)!r}. "
            f"Received: {type(error).__name__}: {first_line(error)}. Replace a file in "
            f"{str(manual_folder(root))!r} if it is the cause, and run the command "
            f"again; or {_copy_prepared(builder, root)}"
        ) from error


def _unwritable(folder: Path, error: BaseException) -> PmalError:
    """Makes the error of a folder into which nothing can be written."""
    return PmalError(
        f"The data folder cannot be written; expected room and permission to write in "
        f"{str(folder)!r}. Received: {type(error).__name__}: {first_line(error)}. Make "
        "room, change its permissions, or choose another folder with --data_dir."
    )
