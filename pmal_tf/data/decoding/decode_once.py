"""Decoding image files once, into a file of pixels that training reads from."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from pmal_tf.data.decoding.decode import decode_image
from pmal_tf.data.decoding.stored_images import PixelFile, StoredImages, pixel_digests
from pmal_tf.data.images import LabelledImages
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import locked, save_arrays

_PIXELS, _EXAMPLES = "pixels.bin", "examples.npz"
_BATCH = 64
# Bytes of pixels that are compared with their hashes at every start.
_MOST_CHECKED = 2**30
_PATIENCE_SECONDS = 10.0
# Changes when `decode_image` gives other pixels than before.
_DECODER = 1


@dataclass(frozen=True)
class EncodedImages:
    """Image files in a fixed order, not decoded yet.

    Attributes:
        name: What they are, for messages and the name of the store.
        about: How many there are, for the room they need and the progress.
        size: Side of the square images to make, in pixels.
        stream: Makes a dataset of `{"contents", "label", "example_id"}`.
        provenance: Text that changes when any of the files does.
        check_readable: Called with the ids of the images that can be read; raises
            where these are too few, and then nothing is stored; returns whether the
            others cannot be read still. None: all must be.
    """

    name: str
    about: int
    size: int
    stream: Callable[[], tf.data.Dataset]
    provenance: str
    check_readable: Callable[[np.ndarray], bool] | None = None

    @property
    def key(self) -> str:
        """Hash of what decides the pixels."""
        return hashlib.sha256(f"{_DECODER} {self.provenance}".encode()).hexdigest()


def decode_once(encoded: EncodedImages, cache_dir: str) -> LabelledImages:
    """Decodes images, or finds them decoded before; their pixels stay on disk.

    An empty `cache_dir` is `$XDG_CACHE_HOME/pmal_tf`, or in `~/.cache`.

    Raises:
        PmalError: If the folder cannot be written or has too little room.
        tf.errors.OpError: If an image cannot be read and all must be.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pmal_tf"
    root = Path(cache_dir or default).expanduser()
    folder = root / f"{encoded.name}_{encoded.size}"
    if (images := _read_store(folder, encoded)) is not None:
        return images
    try:
        root.mkdir(parents=True, exist_ok=True)
        # One process decodes, and the others find its images.
        waiting = f"Another command is decoding {encoded.name}; waiting"
        with locked(folder.with_name(f"{folder.name}.lock"), waiting):
            if (images := _read_store(folder, encoded)) is not None:
                return images
            return _write_store(folder, encoded)
    except OSError as error:
        raise PmalError(
            "Decoded images need a folder that can be written. Received: "
            f"{root}: {error.strerror or error}. Name another with --cache_dir."
        ) from error


def _read_store(folder: Path, encoded: EncodedImages) -> LabelledImages | None:
    """Returns images that were decoded before, or None where there are no such."""
    size = encoded.size
    try:
        with (folder / _EXAMPLES).open("rb") as opened, np.load(opened) as stored:
            label, example_id = stored["label"], stored["example_id"]
            digests, found = stored["digest"], str(stored["key"])
        whole = (folder / _PIXELS).stat().st_size == len(label) * size * size * 3
        if found != encoded.key or not whole:
            return None
        image = StoredImages.of_file(PixelFile(folder / _PIXELS, size), digests)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    starts = range(0, len(image), _BATCH) if image.nbytes <= _MOST_CHECKED else ()
    for start in starts:
        batch = slice(start, start + _BATCH)
        if not np.array_equal(pixel_digests(image[batch]), digests[batch]):
            logging.warning("Decoded images in %s are damaged; decoding anew.", folder)
            return None
    if encoded.check_readable and not encoded.check_readable(example_id):
        return None
    return LabelledImages(image, label, example_id)


def _write_store(folder: Path, encoded: EncodedImages) -> LabelledImages:
    """Decodes everything into a folder that appears whole or not at all."""
    size = encoded.size
    writing = folder.with_name(f"writing_{folder.name}")
    shutil.rmtree(writing, ignore_errors=True)  # A process that was killed left it.
    writing.mkdir()
    try:
        needed, free = encoded.about * size * size * 3, shutil.disk_usage(writing).free
        if needed > free:
            raise PmalError(
                f"Decoded images need {needed / 1e9:.1f} GB. Received: {folder.parent} "
                f"with {free / 1e9:.1f} GB free. Name a folder with more room with "
                "--cache_dir, or lower --image_size."
            )
        digests: list[np.ndarray] = [np.zeros((0, 16), np.uint8)]
        labels: list[int] = []
        ids: list[str] = []
        with (writing / _PIXELS).open("wb") as file:
            for batch in _decoded_batches(encoded):
                file.write(np.ascontiguousarray(batch["image"]).data)
                digests.append(pixel_digests(batch["image"]))
                labels += batch["label"].tolist()
                ids += [raw.decode() for raw in batch["example_id"]]
            file.flush()
            os.fsync(file.fileno())
        label, example_id = np.array(labels, np.int32), np.array(ids, dtype=str)
        digest = np.concatenate(digests)
        if encoded.check_readable:
            encoded.check_readable(example_id)
        arrays = {"label": label, "example_id": example_id, "digest": digest}
        arrays["key"] = np.array(encoded.key)
        save_arrays(writing / _EXAMPLES, arrays, compressed=True)
        image = StoredImages.of_file(PixelFile(writing / _PIXELS, size), digest)
        shutil.rmtree(folder, ignore_errors=True)
        writing.rename(folder)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    return LabelledImages(image, label, example_id)


def _decoded_batches(encoded: EncodedImages) -> Iterator[dict[str, np.ndarray]]:
    """Streams batches of decoded images in order."""

    def decoded(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            "image": decode_image(example["contents"], encoded.size),
            "label": tf.cast(example["label"], tf.int32),
            "example_id": example["example_id"],
        }

    stream = encoded.stream().map(decoded, num_parallel_calls=2, deterministic=True)
    if encoded.check_readable:
        stream = stream.ignore_errors()
    stream = stream.batch(_BATCH).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # As in the training pipeline.
    with tqdm(
        desc=f"Decoding {encoded.name}",
        total=encoded.about,
        unit=" images",
        delay=_PATIENCE_SECONDS,
    ) as bar:
        for batch in stream.with_options(options).as_numpy_iterator():
            yield batch
            bar.update(len(batch["label"]))
