"""A folder of the user's images: `--dataset=folder --data_dir=DIR`."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from pmal_tf.data.datasets.folder_scan import (
    JPEG_SUFFIXES,
    UNKNOWN,
    ImageEntry,
    ImageFolder,
    scan,
)
from pmal_tf.data.hashing import hash_ids
from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.runtime.errors import PmalError

if TYPE_CHECKING:
    import tensorflow as tf

_SIZE = 64
_TEST_SHARE = 0.2
_MOST_LISTED = 50
_EXIF_ORIENTATION = 0x0112


def _open(options: SourceOptions) -> Source:
    """Lists the images."""
    if not options.data_dir:
        raise PmalError(
            "`data_dir` must name the folder of images. Received: data_dir=''"
        )
    folder = scan(Path(options.data_dir).expanduser())
    classes = sorted({e.class_name for e in folder.entries if e.side != UNKNOWN})
    # Those of `unknown/` stand last.
    others = sorted({e.class_name for e in folder.entries} - set(classes))
    class_names = (*classes, *others)
    held_out = options.held_out_classes
    missing = [name for name in held_out if name not in classes]
    if missing:
        raise PmalError(
            "`held_out_classes` must name class folders of train/ "
            f"({', '.join(map(repr, classes[:20]))}). "
            f"Received: {', '.join(map(repr, missing))}. A name with a comma stands in "
            """double quotes: --held_out_classes='"a, b",c'."""
        )
    known = tuple(name for name in classes if name not in held_out)
    return Source(
        name="folder",
        class_names=class_names,
        natural=True,
        load=functools.partial(_load, folder, class_names, options),
        state=functools.partial(_state, folder),
        own_split=(known, tuple(name for name in class_names if name not in known)),
        own_protocol="folder",
        unknown_is_estimate=bool(held_out),
    )


def _load(
    folder: ImageFolder, class_names: Sequence[str], options: SourceOptions
) -> tuple[LabelledImages, LabelledImages]:
    """Decodes the images, and holds test images out where there are none."""
    from pmal_tf.data.decoding.decode_once import EncodedImages, decode_once

    folder.warn_of_skipped()
    root, entries = folder.root, folder.entries
    label_of = {name: label for label, name in enumerate(class_names)}
    label = {entry.path: label_of[entry.class_name] for entry in entries}
    where = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    paths, most = list(label), options.max_unreadable
    encoded = EncodedImages(
        name=f"folder_{where}",
        about=len(entries),
        size=options.image_size or _SIZE,
        stream=functools.partial(_stream, root, paths),
        provenance=_state(folder),
        check_readable=functools.partial(_check_readable, root, paths, most),
    )
    decoded = decode_once(encoded, options.cache_dir)
    ids = decoded.example_id
    labels = np.array([label[path] for path in ids], np.int32)
    images = LabelledImages(decoded.image, labels, ids)
    in_test = held_out_paths(entries, options.held_out_classes)
    is_test = np.array([path in in_test for path in ids], bool)
    return images.take(~is_test), images.take(is_test)


def held_out_paths(
    entries: Sequence[ImageEntry], held_out_classes: Sequence[str]
) -> set[str]:
    """Returns the paths of the images that are tested on.

    All of `test/` and `unknown/`, and of classes held out. Without `test/`, also a
    fifth of each class, at least one image of two: those whose hashes are the lowest,
    so that adding images moves few others, and no seed moves any.
    """
    chosen = {
        entry.path
        for entry in entries
        if entry.side != "train" or entry.class_name in held_out_classes
    }
    if any(entry.side == "test" for entry in entries):
        return chosen
    by_class: dict[str, list[str]] = {}
    for entry in entries:
        if entry.path not in chosen:
            by_class.setdefault(entry.class_name, []).append(entry.path)
    for paths in by_class.values():
        rank = hash_ids(np.array(paths), "folder test images")
        count = max(round(_TEST_SHARE * len(paths)), 1) if len(paths) > 1 else 0
        chosen.update(paths[index] for index in np.argsort(rank)[:count])
    return chosen


def _state(folder: ImageFolder) -> str:
    """Returns a hash that changes when a file does: names, sizes and times."""
    digest = hashlib.sha256()
    for entry in folder.entries:
        try:
            status = (folder.root / entry.path).stat()
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:
            state = str(error.errno)
        digest.update(f"{entry.path} {state}\n".encode())
    return digest.hexdigest()


def _stream(root: Path, paths: list[str]) -> tf.data.Dataset:
    """Reads the files; called only where they are not decoded yet."""
    import tensorflow as tf

    _warn_of_orientation(root, paths)
    prefix = os.fsencode(root) + b"/"

    def read(path: tf.Tensor) -> dict[str, tf.Tensor]:
        contents = tf.io.read_file(tf.strings.join([prefix, path]))
        return {"contents": contents, "label": -1, "example_id": path}

    return tf.data.Dataset.from_tensor_slices(tf.constant(paths)).map(read)


def _check_readable(
    root: Path, paths: list[str], most: int, readable: np.ndarray
) -> bool:
    """Lists the files that cannot be read, and returns whether all cannot still.

    Raises:
        PmalError: If they are more than `most`.
    """
    found = set(readable.tolist())
    reasons = {p: _why_unreadable(root / p) for p in paths if p not in found}
    if not all(reasons.values()):
        return False
    count = len(reasons)
    lines = [f"  {path}: {reason}" for path, reason in reasons.items()]
    if count > _MOST_LISTED:
        lines[_MOST_LISTED:] = [f"  and {count - _MOST_LISTED} more"]
    listed = "\n".join(lines)
    if count > most:
        raise PmalError(
            f"At most {most} files of {str(root)!r} may be unreadable. Received: "
            f"{count}. Mend or remove them, or pass over them with "
            f"--max_unreadable={count}:\n{listed}"
        )
    if count:
        logging.warning("Passed over %d unreadable files:\n%s", count, listed)
    return True


def _why_unreadable(path: Path) -> str:
    """Says why an image cannot be decoded, nothing if it can."""
    import tensorflow as tf

    from pmal_tf.data.decoding.decode import MAX_PIXELS, declared_size, decode_image

    try:
        contents = path.read_bytes()
        if not contents:
            return "the file is empty"
        height, width = (int(side) for side in declared_size(tf.constant(contents)))
        if height * width > MAX_PIXELS:
            return (
                f"it declares {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} "
                "are read"
            )
        if height < 1 or width < 1:
            return "it is not a JPEG, PNG, BMP or GIF file"
        decode_image(tf.constant(contents), 1)
    except OSError as error:
        return f"it cannot be opened: {error.strerror}"
    except tf.errors.OpError:
        return "it is damaged, cut off, or of a kind that TensorFlow does not read"
    return ""


def _warn_of_orientation(root: Path, paths: list[str]) -> None:
    """Counts the images whose EXIF orientation is ignored, here as in serving."""
    from PIL import Image

    rotated = 0
    for path in (path for path in paths if path.lower().endswith(JPEG_SUFFIXES)):
        # Pillow has many errors; the decoder reports what is unreadable.
        with warnings.catch_warnings(action="ignore"), suppress(Exception):
            with Image.open(root / path) as image:
                rotated += image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    if rotated:
        logging.warning(
            "%d of %d images have an EXIF orientation, which is ignored in training "
            "and serving: they are seen as their pixels are stored. Rotate them for "
            "good if that matters.",
            rotated,
            len(paths),
        )


def _prepare(options: SourceOptions) -> str:
    """Says what is in the folder: there is nothing to download."""
    source = _open(options)
    train, test = source.load()
    known, _ = source.own_split or ((), ())
    return (
        f"{options.data_dir}: {len(known)} classes, {len(train)} images "
        f"to train on and {len(test)} to test on; nothing to download"
    )


DATASETS = (Dataset(name="folder", open=_open, prepare=_prepare),)
