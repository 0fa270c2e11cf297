"""Decoding image files once, into a file of pixels that training reads from."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from pmal_tf.data.decoding.decode import decode_image
from pmal_tf.data.decoding.stored_images import ImageFile, StoredImages, pixel_digests
from pmal_tf.data.images import LabelledImages
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import save_arrays

_PIXELS, _EXAMPLES, _FACTS = "pixels.bin", "examples.npz", "facts.json"
_WRITING = "writing_"
_BATCH = 64
_ATTEMPTS = 10
_LEAST_IDLE_SECONDS = 600.0
# Bytes of pixels that are compared with their hashes at every start.
_MOST_CHECKED = 2**30
_SECONDS_BETWEEN_REPORTS = 10.0
# Changes when `decode_image` gives other pixels than before.
_DECODER = 1


@dataclass(frozen=True)
class EncodedImages:
    """Image files in a fixed order, not decoded yet.

    Attributes:
        name: What they are, for messages and the name of the store.
        about: How many there are, for the room they need and the progress.
        stream: Makes a dataset of `{"contents", "label", "example_id"}`.
        made_from: Text that changes when any of the files does.
    """

    name: str
    about: int
    stream: Callable[[], tf.data.Dataset]
    made_from: str


def default_cache_dir() -> Path:
    """Returns where decoded images lie: `$XDG_CACHE_HOME/pmal_tf`, or in `~/.cache`."""
    parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser() / "pmal_tf"


def decode_once(
    encoded: EncodedImages,
    size: int,
    cache_dir: str,
    check_readable: Callable[[np.ndarray], bool] | None = None,
) -> LabelledImages:
    """Decodes images, or finds them decoded before.

    Args:
        encoded: The image files.
        size: Side of the square images in pixels.
        cache_dir: Folder for the decoded images; empty: the default.
        check_readable: Called with the ids of the images that can be read; raises
            where these are too few, and then nothing is stored; returns whether the
            others cannot be read still. None: all must be.

    Returns:
        The images that could be decoded, in order; their pixels stay on disk.

    Raises:
        PmalError: If the folder cannot be written or has too little room.
        tf.errors.OpError: If an image cannot be read and all must be.
    """
    root = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    folder = root / f"{encoded.name}_{size}"
    made_from = hashlib.sha256(f"{_DECODER} {encoded.made_from}".encode()).hexdigest()
    images = _read_store(folder, size, made_from)
    if images is not None and check_readable is not None:
        images = images if check_readable(images.example_id) else None
    if images is None:
        try:
            _write_store(folder, encoded, size, made_from, check_readable)
        except OSError as error:
            raise PmalError(
                "Decoded images need a folder that can be written. Received: "
                f"{root}: {error.strerror or error}. Name another with --cache_dir."
            ) from error
        images = _read_store(folder, size, made_from)
        if images is None:
            raise PmalError(
                f"Decoded images must stay as they were written. Received: {folder}, "
                "changed by another process. Name a folder of its own with --cache_dir."
            )
    return images


def _read_store(folder: Path, size: int, made_from: str) -> LabelledImages | None:
    """Returns images that were decoded before, or None where there are no such."""
    try:
        facts = json.loads((folder / _FACTS).read_text())
        with (folder / _EXAMPLES).open("rb") as opened, np.load(opened) as stored:
            label, example_id = stored["label"], stored["example_id"]
            digests = stored["digest"]
        whole = (folder / _PIXELS).stat().st_size == len(label) * size * size * 3
        if facts["made_from"] != made_from or not whole:
            return None
        image = StoredImages.of_file(ImageFile(folder / _PIXELS, size), digests)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    if image.nbytes <= _MOST_CHECKED and not _is_sound(image):
        logging.warning("Decoded images in %s are damaged; decoding anew.", folder)
        return None
    return LabelledImages(image, label, example_id)


def _is_sound(image: StoredImages) -> bool:
    """Tells whether all pixels are as they were decoded."""
    return all(
        np.array_equal(pixel_digests(image[start : start + _BATCH]), digests)
        for start in range(0, len(image), _BATCH)
        for digests in [image.digests[start : start + _BATCH]]
    )


def _write_store(
    folder: Path,
    encoded: EncodedImages,
    size: int,
    made_from: str,
    check_readable: Callable[[np.ndarray], bool] | None,
) -> None:
    """Decodes everything into a folder that appears whole or not at all."""
    _remove_leftovers(folder)
    prefix = f"{_WRITING}{platform.node()}_{os.getpid()}_"
    writing = folder.with_name(f"{prefix}{folder.name}")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        _check_room(writing, encoded.about * size * size * 3)
        digests: list[np.ndarray] = [np.zeros((0, 16), np.uint8)]
        labels: list[int] = []
        ids: list[str] = []
        skip_unreadable = check_readable is not None
        with (writing / _PIXELS).open("wb") as file:
            for batch in _decoded_batches(encoded, size, skip_unreadable):
                file.write(np.ascontiguousarray(batch["image"]).data)
                digests.append(pixel_digests(batch["image"]))
                labels += batch["label"].tolist()
                ids += [raw.decode() for raw in batch["example_id"]]
            file.flush()
            os.fsync(file.fileno())
        example_id = np.array(ids, dtype=str)
        if check_readable is not None:
            check_readable(example_id)
        arrays = {
            "label": np.array(labels, np.int32),
            "example_id": example_id,
            "digest": np.concatenate(digests),
        }
        save_arrays(writing / _EXAMPLES, arrays, compressed=True)
        (writing / _FACTS).write_text(json.dumps({"made_from": made_from}))
        _replace_folder(folder, writing)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _replace_folder(folder: Path, writing: Path) -> None:
    """Puts a new folder in the place of an old one, be there other processes at it."""
    for attempt in range(_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            writing.rename(folder)
        except OSError as error:
            # Another process was quicker between the two lines.
            if error.errno != errno.ENOTEMPTY or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _remove_leftovers(folder: Path) -> None:
    """Removes what processes of this machine were writing when they were killed."""
    for path in folder.parent.glob(f"{_WRITING}{platform.node()}_*_{folder.name}"):
        process = path.name.removeprefix(f"{_WRITING}{platform.node()}_").split("_")[0]
        try:
            # Containers may share a folder and a name but not their processes: what
            # was written to lately may be alive elsewhere.
            idle = time.time() - (path / _PIXELS).stat().st_mtime
            os.kill(int(process), 0)
        except ProcessLookupError:
            if idle > _LEAST_IDLE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except (ValueError, OSError):
            continue


def _decoded_batches(
    encoded: EncodedImages, size: int, skip_unreadable: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Streams batches of decoded images in order."""

    def decoded(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            "image": decode_image(example["contents"], size),
            "label": tf.cast(example["label"], tf.int32),
            "example_id": example["example_id"],
        }

    stream = encoded.stream().map(decoded, num_parallel_calls=2, deterministic=True)
    if skip_unreadable:
        stream = stream.ignore_errors()
    stream = stream.batch(_BATCH).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # As in the training pipeline.
    done, began = 0, time.perf_counter()
    reported = began
    for batch in stream.with_options(options).as_numpy_iterator():
        yield batch
        done += len(batch["label"])
        now = time.perf_counter()
        if now - reported > _SECONDS_BETWEEN_REPORTS:
            reported = now
            logging.info(
                "Decoding %s: %d of about %d images, %.0f images/s",
                *(encoded.name, done, encoded.about, done / (now - began)),
            )


def _check_room(folder: Path, needed: int) -> None:
    """Checks that the decoded images fit on the disk.

    Raises:
        PmalError: If they do not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PmalError(
            f"Decoded images need {needed / 1e9:.1f} GB. Received: {folder.parent} "
            f"with {free / 1e9:.1f} GB free. Name a folder with more room with "
            "--cache_dir, or lower --image_size."
        )
