"""TensorBoard's embedding projector: a cloud of test images around the prototypes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from pmal_tf.data.hashing import hash_ids
from pmal_tf.results.tensorboard.hparams import new_event_file
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_atomically, write_text

KINDS = ("known", "unknown", "prototype")
BORDER = {"unknown": (128, 128, 128), "prototype": (255, 127, 14)}
_CHECKPOINT = "embedding.ckpt"
_TENSOR = "embedding/.ATTRIBUTES/VARIABLE_VALUE"
_METADATA, _SPRITE = "metadata.tsv", "sprite.png"
_LONGEST_SPRITE = 8192  # A larger texture does not fit WebGL on many devices.


def write_projector(
    folder: Path,
    *,
    embedding: np.ndarray,
    image: np.ndarray,
    kind: Sequence[str],
    class_name: Sequence[str],
    example_id: Sequence[str],
    sprite_side: int = 32,
    most: int = 2000,
) -> None:
    """Writes embeddings with their images for TensorBoard's projector page.

    A small image stands at each point, prototypes in an orange frame and images of
    unknown classes in a grey one. Points can be coloured by class and by kind.

    Args:
        folder: Where to, a folder below `--logdir` with no folders of other curves in
            it: TensorBoard shows an embedding again for each. It is made if need be.
        embedding: [n, D] finite numbers, written as float32.
        image: [n, H, W, 3] uint8; only those shown are read.
        kind: n of `KINDS`.
        class_name: n names, of unknown images that of the true class. Tabs and line
            breaks become spaces.
        example_id: n strings.
        sprite_side: Side of the small images in pixels; they are smaller if all
            together would be wider than 8,192 pixels.
        most: Most points shown. All prototypes are; of the other images, those whose
            hashed ids come first, in whatever order they are given.

    Raises:
        PmalError: If the arrays do not fit together, are empty or not finite, a kind
            is not one of `KINDS`, or a number is below 1.
    """
    embedding = np.asarray(embedding)
    _check(embedding, image, kind, class_name, example_id)
    if min(sprite_side, most) < 1:
        raise PmalError(
            "`sprite_side` and `most` must be 1 or more. Received: "
            f"{sprite_side}, {most}"
        )
    kinds, ids = np.asarray(kind, str), np.asarray(example_id, str)
    shown = _shown(kinds, ids, most)
    if len(shown) < len(kinds):
        logging.info("The projector shows %d of %d points.", len(shown), len(kinds))
    tiles = sprite_tiles(image[shown], kinds[shown], sprite_side)
    columns = ([class_name[i] for i in shown], kinds[shown], ids[shown])
    lines = ["class\tkind\texample id"]
    lines += ["\t".join(map(_one_word, row)) for row in zip(*columns, strict=True)]
    write_text(folder / _METADATA, "\n".join(lines) + "\n")
    sprite = Image.fromarray(_square_of_tiles(tiles))
    write_atomically(folder / _SPRITE, sprite.save)
    _write_checkpoint(folder, embedding[shown].astype(np.float32))
    _write_config(folder, tile_side=tiles.shape[1])


def sprite_tiles(image: np.ndarray, kind: np.ndarray, side: int) -> np.ndarray:
    """Draws the small image of each point.

    Args:
        image: [n, H, W, 3] uint8. What is not square gets black bars.
        kind: [n] of `KINDS`; `BORDER` tells the colour of the frame, a sixteenth of
            the side wide, that covers the image's edge.
        side: Wanted side in pixels.

    Returns:
        [n, s, s, 3] uint8 where s is `side`, or less if a square of so many tiles would
        exceed 8,192 pixels.
    """
    side = min(side, _LONGEST_SPRITE // _columns(len(image)))
    # Enlarged, the pixels of digits and the like are to stay visible.
    larger = max(image.shape[1:3]) < side
    method = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    tiles = np.empty((len(image), side, side, 3), np.uint8)
    for index, pixels in enumerate(image):
        padded = ImageOps.pad(Image.fromarray(pixels), (side, side), method)
        tiles[index] = np.asarray(padded)
    width = max(1, side // 16)
    edge = np.ones((side, side), bool)
    edge[width:-width, width:-width] = False
    for name, colour in BORDER.items():
        framed = np.flatnonzero(kind == name)
        paint = np.array(colour, np.uint8)
        tiles[framed] = np.where(edge[..., None], paint, tiles[framed])
    return tiles


def _check(
    embedding: np.ndarray,
    image: np.ndarray,
    kind: Sequence[str],
    class_name: Sequence[str],
    example_id: Sequence[str],
) -> None:
    """Checks that the columns tell of the same points, and can be shown."""
    lengths = [len(x) for x in (embedding, image, kind, class_name, example_id)]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise PmalError(
            "Embeddings, images, kinds, class names and example ids must tell of the "
            "same points, at least one. Received: "
            f"{' / '.join(map(str, lengths))} of them"
        )
    if embedding.ndim != 2 or not embedding.shape[1]:
        raise PmalError(
            "`embedding` must be [points, dimensions]. Received: shape "
            f"{embedding.shape}"
        )
    if image.ndim != 4 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise PmalError(
            "`image` must be [points, height, width, 3] uint8. Received: shape "
            f"{image.shape}, {image.dtype}"
        )
    if others := sorted(set(map(str, kind)) - set(KINDS)):
        raise PmalError(
            f"Each kind must be one of {', '.join(KINDS)}. Received: "
            f"{', '.join(map(repr, others))}"
        )
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite.
        wrong = np.flatnonzero(~np.isfinite(embedding.astype(np.float32)).all(axis=1))
    if wrong.size:
        raise PmalError(
            "Embeddings must be finite numbers of float32. Received: others in "
            f"{wrong.size} of {lengths[0]} points, first in {example_id[wrong[0]]}"
        )


def _shown(kind: np.ndarray, example_id: np.ndarray, most: int) -> np.ndarray:
    """Returns the positions of all prototypes and of as many others as there is room.

    Chosen by id, an image is shown or not whatever order the images come in.
    """
    is_prototype = kind == "prototype"
    others = np.flatnonzero(~is_prototype)
    room = max(0, most - int(is_prototype.sum()))
    order = np.argsort(hash_ids(example_id[others], "projector"), kind="stable")
    return np.sort(np.concatenate([np.flatnonzero(is_prototype), others[order[:room]]]))


def _one_word(text: str) -> str:
    """Replaces what would begin another cell or line of a table; `splitlines` knows."""
    return " ".join(str(text).replace("\t", " ").splitlines())


def _columns(count: int) -> int:
    """Returns how many tiles stand side by side: TensorBoard expects a square."""
    return math.isqrt(count - 1) + 1


def _square_of_tiles(tiles: np.ndarray) -> np.ndarray:
    """Lays [n, s, s, 3] tiles out row by row in a square, white where none is left."""
    count, side = tiles.shape[:2]
    columns = _columns(count)
    square = np.full((columns * columns, side, side, 3), 255, np.uint8)
    square[:count] = tiles
    square = square.reshape(columns, columns, side, side, 3).swapaxes(1, 2)
    return square.reshape(columns * side, columns * side, 3)


def _write_checkpoint(folder: Path, embedding: np.ndarray) -> None:
    """Writes the embedding as the variable of a checkpoint, over that of before."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        checkpoint = tf.train.Checkpoint(embedding=tf.Variable(embedding))
        # `save`, unlike `write`, leaves the file by which TensorBoard finds it.
        checkpoint.save(str(folder / _CHECKPOINT))


def _write_config(folder: Path, tile_side: int) -> None:
    """Writes which file holds what, last, and makes the folder a run of TensorBoard."""
    from google.protobuf import text_format
    from tensorboard.plugins import projector

    config = projector.ProjectorConfig()
    entry = config.embeddings.add()
    entry.tensor_name = _TENSOR
    entry.metadata_path = _METADATA
    entry.sprite.image_path = _SPRITE
    entry.sprite.single_image_dim.extend([tile_side, tile_side])
    text = text_format.MessageToString(config)
    write_text(folder / "projector_config.pbtxt", text)
    # TensorBoard looks for embeddings in folders with an event file only.
    with new_event_file(folder, "projector"):
        pass
