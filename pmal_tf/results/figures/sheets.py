"""Contact sheets: many small images on one."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 2
_WHITE = 255
_CAPTION = 12
_CAPTION_WIDTH = 40  # Narrower images stand further apart, or captions would touch.
_CELL_GAP = 8
_FRAME = (200, 200, 200)


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


def thumbnails(images: np.ndarray, longest: int) -> np.ndarray:
    """Makes small copies; images that are small keep their size and every pixel.

    Args:
        images: [n, H, W, 3] uint8, or numbers on the same scale, which are rounded.
        longest: Longest side of the copies in pixels.

    Returns:
        [n, h, w, 3] uint8.
    """
    if images.dtype != np.uint8:
        images = np.clip(np.rint(images), 0, _WHITE).astype(np.uint8)
    height, width = images.shape[1:3]
    scale = longest / max(height, width)
    if scale >= 1:
        return images
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.empty((len(images), size[1], size[0], 3), np.uint8)
    for index, pixels in enumerate(images):
        resized = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        small[index] = np.asarray(resized)
    return small


def captioned_sheet(
    images: np.ndarray, captions: Sequence[str], columns: int, scale: int = 1
) -> np.ndarray:
    """Lays images out in a grid, each in a thin frame above its caption.

    Args:
        images: [n, H, W, 3] uint8; none make a sheet of height 0.
        captions: n short texts.
        columns: Images per row. The sheet is so wide even if there are fewer.
        scale: Whole-number magnification.

    Returns:
        [height, width, 3] uint8; the width depends on W, `columns` and `scale` alone.
    """
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, _ = images.shape
    cell_width = max(width, _CAPTION_WIDTH) + _CELL_GAP
    cell_height = height + 2 * _CAPTION + _CELL_GAP
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        # One pixel is left free for the frame.
        left, top = index % columns * cell_width + 1, index // columns * cell_height + 1
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_FRAME)
        sheet.paste(Image.fromarray(image), (left, top))
        below = (left + width / 2, top + height + _CAPTION + 3)
        draw.text(below, caption, "black", _font(_CAPTION), anchor="ms")
    return np.asarray(sheet)


def text_line(text: str, width: int, size: int) -> np.ndarray:
    """Draws a line of black text on white, cut short where it is too long.

    Args:
        text: Any text. Of letters that the font lacks, those with an accent lose it and
            others become an empty box.
        width: Width of the picture in pixels.
        size: Size of the letters in pixels.

    Returns:
        [height, width, 3] uint8.
    """
    font = _font(size)
    text = "".join(_drawable(letter) for letter in unicodedata.normalize("NFC", text))
    if font.getlength(text) > width:
        text = text[:width]  # No letter is narrower than a pixel.
        while text and font.getlength(f"{text}...") > width:
            text = text[:-1]
        text = f"{text}..."
    line = Image.new("RGB", (width, 8 * size // 5), "white")
    ImageDraw.Draw(line).text((0, size), text, "black", font, anchor="ls")
    return np.asarray(line)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font, which knows little more than ASCII."""
    return ImageFont.load_default(size=size)


def _drawable(letter: str) -> str:
    """Returns a letter without what cannot be drawn: accents, line breaks."""
    if not letter.isprintable():
        return " "
    base = unicodedata.normalize("NFD", letter)[0]
    return base if base.isascii() else letter
