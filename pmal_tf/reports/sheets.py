"""Contact sheets: many small images on one."""

from __future__ import annotations

import numpy as np

_GAP = 2
_WHITE = 255


def contact_sheet(images: np.ndarray, columns: int = 5, scale: int = 1) -> np.ndarray:
    """Lays images out in a grid.

    Args:
        images: [n, H, W, 3] uint8.
        columns: Images per row.
        scale: Whole-number magnification.

    Returns:
        [height, width, 3] uint8 with a white gap around each image.
    """
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cell_height, cell_width = height + _GAP, width + _GAP
    sheet = np.full(
        (rows * cell_height + _GAP, columns * cell_width + _GAP, channels),
        _WHITE,
        np.uint8,
    )
    for index, image in enumerate(images):
        top = _GAP + index // columns * cell_height
        left = _GAP + index % columns * cell_width
        sheet[top : top + height, left : left + width] = image
    return sheet
