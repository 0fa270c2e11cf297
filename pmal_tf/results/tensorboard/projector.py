"""TensorBoard's embedding projector: a cloud of test images around the prototypes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from pmal_tf.data.hashing import hash_ids
from pmal_tf.results.figures.sheets import contact_sheet
from pmal_tf.results.tensorboard.hparams import new_event_file
from pmal_tf.runtime.files import write_atomically, write_text

# The frame of each kind of image; those of known classes have none.
BORDER = {"unknown": (128, 128, 128), "prototype": (255, 127, 14)}
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
        embedding: [n, D], written as float32.
        image: [n, H, W, 3] uint8; only those shown are read.
        kind: n of "known", "unknown" and "prototype".
        class_name: n names. Tabs and line breaks become spaces.
        example_id: n strings.
        sprite_side: Side of the small images in pixels; see `sprite_tiles`.
        most: Most points shown. All prototypes are; of the other images, those whose
            hashed ids come first, in whatever order they are given.
    """
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorboard.plugins import projector

    kinds, ids = np.asarray(kind, str), np.asarray(example_id, str)
    shown = _shown(kinds, ids, most)
    if len(shown) < len(kinds):
        logging.info("The projector shows %d of %d points.", len(shown), len(kinds))
    tiles = sprite_tiles(image[shown], kinds[shown], sprite_side)
    columns = _columns(len(tiles))
    blank = ((0, columns**2 - len(tiles)), (0, 0), (0, 0), (0, 0))
    square = np.pad(tiles, blank, constant_values=255)  # As TensorBoard expects.
    sprite = contact_sheet(square, columns=columns, gap=0)
    lines = ["class\tkind\texample id"]
    for i in shown:
        lines.append("\t".join(map(_one_word, (class_name[i], kinds[i], ids[i]))))
    write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
    write_atomically(folder / "sprite.png", Image.fromarray(sprite).save)
    with tf.device("CPU:0"):
        variable = tf.Variable(embedding[shown].astype(np.float32))
        # `save`, unlike `write`, leaves the file by which TensorBoard finds it.
        tf.train.Checkpoint(embedding=variable).save(str(folder / "embedding.ckpt"))
    config = projector.ProjectorConfig()
    entry = config.embeddings.add()
    entry.tensor_name = "embedding/.ATTRIBUTES/VARIABLE_VALUE"
    entry.metadata_path = "metadata.tsv"
    entry.sprite.image_path = "sprite.png"
    entry.sprite.single_image_dim.extend(tiles.shape[1:3])
    write_text(folder / "projector_config.pbtxt", text_format.MessageToString(config))
    # TensorBoard looks for embeddings in folders with an event file only.
    with new_event_file(folder, "projector"):
        pass


def sprite_tiles(image: np.ndarray, kind: np.ndarray, side: int) -> np.ndarray:
    """Draws the small image of each point, with black bars if it is not square.

    A frame in the colour of its kind, a sixteenth of the side wide, covers its edge.
    From [n, H, W, 3] to [n, s, s, 3] uint8, where s is `side`, or less if a square of
    so many tiles would exceed 8,192 pixels.
    """
    side = min(side, _LONGEST_SPRITE // _columns(len(image)))
    # Enlarged, the pixels of digits and the like are to stay visible.
    larger = max(image.shape[1:3]) < side
    method = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    width = max(1, side // 16)
    tiles = []
    for pixels, name in zip(image, kind.tolist(), strict=True):
        tile = ImageOps.pad(Image.fromarray(pixels), (side, side), method)
        if name in BORDER:
            tile = ImageOps.expand(ImageOps.crop(tile, width), width, BORDER[name])
        tiles.append(np.asarray(tile))
    return np.stack(tiles)


def _shown(kind: np.ndarray, example_id: np.ndarray, most: int) -> np.ndarray:
    """Returns the positions of all prototypes and of as many others as there is room.

    Chosen by id, an image is shown or not whatever order the images come in.
    """
    prototypes = np.flatnonzero(kind == "prototype")
    others = np.flatnonzero(kind != "prototype")
    order = np.argsort(hash_ids(example_id[others], "projector"), kind="stable")
    room = max(0, most - len(prototypes))
    return np.sort(np.concatenate([prototypes, others[order[:room]]]))


def _one_word(text: str) -> str:
    """Replaces what would begin another cell or line of a table; `splitlines` knows."""
    return " ".join(str(text).replace("\t", " ").splitlines())


def _columns(count: int) -> int:
    """Returns how many tiles stand side by side in a square of them."""
    return math.isqrt(count - 1) + 1
