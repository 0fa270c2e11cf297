"""A sheet per class to look at: its best, middling, worst and chosen images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pmal_tf.results.figures.sheets import captioned_sheet, text_line, thumbnails
from pmal_tf.runtime.files import write_atomically
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
) -> dict[str, np.ndarray]:
    """Collects small copies of the images that the sheets show.

    Images of the first three strips stand from high to low robustness, ties by example
    id; an image of a small class may be in several. Only the images shown are read,
    one class at a time; those of no class in `selection` are left out.

    Args:
        image: [N, H, W, 3] uint8.
        class_index: [N] classes.
        robustness: [N] in [0, 1].
        example_id: [N] strings.
        selection: By class, positions of its prototypes in order of selection.
        per_strip: Images per strip, if the class has so many; prototypes are all shown.
        most_classes: Classes after so many are left out.
        thumbnail: Longest side of the copies in pixels; larger images are shrunk.

    Returns:
        The content of `sheets.npz`, class by class and strip by strip: `image`
        [n, h, w, 3] uint8, `class_index`, `strip`, `robustness` and `example_id`.
    """
    positions, strips, copies = [], [], []
    for index, chosen in enumerate(selection[:most_classes]):
        members = np.flatnonzero(class_index == index)
        order = members[np.lexsort((example_id[members], -robustness[members]))]
        count = min(per_strip, len(order))
        middle = (len(order) - count) // 2
        parts = {
            "highest": order[:count],
            "median": order[middle : middle + count],
            "lowest": order[len(order) - count :],
            "prototype": chosen,
        }
        shown = np.concatenate(list(parts.values()))
        needed, place = np.unique(shown, return_inverse=True)
        # Pillow draws no floating-point numbers.
        pixels = np.clip(image[needed], 0, 255).astype(np.uint8)
        copies.append(thumbnails(pixels, thumbnail)[place])
        positions.append(shown)
        strips += [name for name, part in parts.items() for _ in part]
    flat = np.concatenate(positions)
    return {
        "image": np.concatenate(copies),
        "class_index": class_index[flat],
        "strip": np.array(strips, str),
        "robustness": robustness[flat],
        # Strings of fixed length: an array of objects could not be saved.
        "example_id": example_id[flat].astype(str),
    }


def draw_class_sheet(
    sheets: Mapping[str, np.ndarray], class_index: int, class_name: str
) -> np.ndarray:
    """Draws one class: four strips, the robustness under each image.

    Returns [height, width, 3] uint8; all classes of `sheets` have the same width.
    """
    scale = -(-_LEAST_SIDE // max(sheets["image"].shape[1:3]))
    shown = np.bincount(
        sheets["class_index"][sheets["strip"] == "highest"], minlength=1
    )
    columns = max(_LEAST_COLUMNS, int(shown.max()))
    parts = []
    for strip, label in _LABELS.items():
        rows = (sheets["class_index"] == class_index) & (sheets["strip"] == strip)
        captions = [f"{value:.3f}" for value in sheets["robustness"][rows].tolist()]
        grid = captioned_sheet(sheets["image"][rows], captions, columns, scale)
        parts += [text_line(label, grid.shape[1], _LABEL), grid]
    title = f"Class {class_index}: {class_name}"
    picture = np.concatenate([text_line(title, parts[0].shape[1], _TITLE), *parts])
    margins = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))
    return np.pad(picture, margins, constant_values=255)


def write_class_sheets(
    sheets: Mapping[str, np.ndarray], class_names: Sequence[str], folder: Path
) -> list[Path]:
    """Writes the sheet of every collected class as `<class index>_<class name>.png`.

    In files' names, `_` replaces all but ASCII letters, digits and `-`. Returns the
    files, in order of the class index.
    """
    digits = len(str(len(class_names) - 1))
    paths = []
    for index in np.unique(sheets["class_index"]).tolist():
        name = class_names[index]
        # Short and in ASCII: a file's name may have 255 bytes.
        safe = re.sub("[^A-Za-z0-9_-]", "_", name)[:80]
        paths.append(folder / f"{index:0{digits}}_{safe}.png")
        picture = Image.fromarray(draw_class_sheet(sheets, index, name))
        write_atomically(paths[-1], picture.save)
    return paths
