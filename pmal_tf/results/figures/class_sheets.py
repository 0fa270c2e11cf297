"""A sheet per class to look at: its best, middling, worst and chosen images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pmal_tf.results.figures.sheets import captioned_sheet, text_line, thumbnails
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import save_arrays, write_atomically
from pmal_tf.runtime.types import Images

_LABELS = {
    "highest": "Highest robustness",
    "median": "Around the median",
    "lowest": "Lowest robustness",
    "prototype": "Prototypes, in order of selection",
}
_TITLE, _LABEL, _MARGIN = 22, 15, 16  # Heights of letters, and the border, in pixels.
_LEAST_SIDE = 60  # Smaller images are magnified.
_LEAST_COLUMNS = 6  # Room for the title above a class of few images.


@dataclass(frozen=True)
class SheetImages:
    """The images on the sheets, class by class and strip by strip.

    Attributes:
        image: [n, h, w, 3] uint8.
        class_index: [n] class of each image.
        strip: [n] strings: "highest", "median", "lowest" or "prototype".
        robustness: [n] in [0, 1].
        example_id: [n] strings.
    """

    image: np.ndarray
    class_index: np.ndarray
    strip: np.ndarray
    robustness: np.ndarray
    example_id: np.ndarray

    def save(self, path: Path) -> None:
        """Writes all arrays to an .npz file."""
        save_arrays(path, vars(self), compressed=True)

    @classmethod
    def load(cls, path: Path) -> SheetImages:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            return cls(**stored)


def collect_sheets(
    image: Images,
    class_index: np.ndarray,
    robustness: np.ndarray,
    example_id: np.ndarray,
    selection: Sequence[np.ndarray],
    *,
    per_strip: int = 10,
    most_classes: int = 100,
    thumbnail: int = 64,
) -> SheetImages:
    """Collects small copies of the images that the sheets show.

    Images of the first three strips stand from high to low robustness, ties by example
    id; an image of a small class may be in several. Only the images shown are read,
    one class at a time.

    Args:
        image: [N, H, W, 3] uint8, or numbers on the same scale, which are rounded.
        class_index: [N] in [0, K); images of other classes are left out.
        robustness: [N] in [0, 1].
        example_id: [N] strings.
        selection: For each of K classes, positions of its prototypes among the N
            images, in order of selection.
        per_strip: Images per strip; a class with fewer gives what it has. The strip of
            prototypes holds them all.
        most_classes: Classes after so many are left out.
        thumbnail: Longest side of the copies in pixels; larger images are shrunk.

    Raises:
        PmalError: If the arrays do not fit together, or a number is below 1.
    """
    lengths = [len(image), len(class_index), len(robustness), len(example_id)]
    if len(set(lengths)) != 1:
        raise PmalError(
            "Images, class indices, robustness and example ids must tell of the same "
            f"images. Received: {' / '.join(map(str, lengths))} of them"
        )
    if min(per_strip, most_classes, thumbnail) < 1:
        raise PmalError(
            "`per_strip`, `most_classes` and `thumbnail` must be 1 or more. Received: "
            f"{per_strip}, {most_classes}, {thumbnail}"
        )
    positions, strips, copies = [], [], []
    for index, chosen in enumerate(selection[:most_classes]):
        members = np.flatnonzero(class_index == index)
        order = members[np.lexsort((example_id[members], -robustness[members]))]
        parts = {**_strips(order, per_strip), "prototype": chosen}
        shown = np.concatenate(list(parts.values()))
        needed, place = np.unique(shown, return_inverse=True)
        copies.append(thumbnails(image[needed], thumbnail)[place])
        positions.append(shown)
        strips += [name for name, part in parts.items() for _ in part]
    flat = np.concatenate(positions)
    return SheetImages(
        image=np.concatenate(copies),
        class_index=class_index[flat],
        strip=np.array(strips, str),
        robustness=robustness[flat],
        # Strings of fixed length: an array of objects could not be saved.
        example_id=example_id[flat].astype(str),
    )


def _strips(order: np.ndarray, per_strip: int) -> dict[str, np.ndarray]:
    """Cuts the two ends and the middle out of a class's order."""
    count = min(per_strip, len(order))
    middle = (len(order) - count) // 2
    median = order[middle : middle + count]
    lowest = order[len(order) - count :]
    return {"highest": order[:count], "median": median, "lowest": lowest}


def draw_class_sheet(
    sheets: SheetImages, class_index: int, class_name: str
) -> np.ndarray:
    """Draws the sheet of one class: four strips, the robustness under each image.

    Args:
        sheets: The collected images.
        class_index: A class among them.
        class_name: For the title, see `text_line`.

    Returns:
        [height, width, 3] uint8. All sheets of `sheets` have the same width.

    Raises:
        PmalError: If no images of the class were collected.
    """
    mine = sheets.class_index == class_index
    if not mine.any():
        raise PmalError(
            "`class_index` must be a class whose images were collected. Received: "
            f"{class_index}, not among {np.unique(sheets.class_index).tolist()}"
        )
    scale = -(-_LEAST_SIDE // max(sheets.image.shape[1:3]))
    shown = np.bincount(sheets.class_index[sheets.strip == "highest"], minlength=1)
    columns = max(_LEAST_COLUMNS, int(shown.max()))
    parts = []
    for strip, label in _LABELS.items():
        rows = np.flatnonzero(mine & (sheets.strip == strip))
        captions = [f"{value:.3f}" for value in sheets.robustness[rows].tolist()]
        grid = captioned_sheet(sheets.image[rows], captions, columns, scale)
        parts += [text_line(label, grid.shape[1], _LABEL), grid]
    title = f"Class {class_index}: {class_name}"
    picture = np.concatenate([text_line(title, parts[0].shape[1], _TITLE), *parts])
    margins = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))
    return np.pad(picture, margins, constant_values=255)


def write_class_sheets(
    sheets: SheetImages, class_names: Sequence[str], folder: Path
) -> list[Path]:
    """Writes the sheet of every collected class as `<class index>_<class name>.png`.

    Args:
        sheets: The collected images.
        class_names: K names; in files, `_` replaces all but ASCII letters, digits, `-`.
        folder: Where to; it is made if need be.

    Returns:
        The files, in order of the class index.

    Raises:
        PmalError: If there are more classes than names.
    """
    collected = np.unique(sheets.class_index).tolist()
    if max(collected) >= len(class_names):
        raise PmalError(
            "`class_names` must name every collected class. Received: "
            f"{len(class_names)} names and images of class {max(collected)}"
        )
    digits = len(str(len(class_names) - 1))
    paths = []
    for index in collected:
        name = class_names[index]
        # Short and in ASCII: a file's name may have 255 bytes.
        safe = re.sub("[^A-Za-z0-9_-]", "_", name)[:80]
        paths.append(folder / f"{index:0{digits}}_{safe}.png")
        picture = Image.fromarray(draw_class_sheet(sheets, index, name))
        write_atomically(paths[-1], picture.save)
    return paths
