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


def contact_sheet(
    images: np.ndarray, columns: int = 5, scale: int = 1, gap: int = _GAP
) -> np.ndarray:
    """Lays [n, H, W, 3] uint8 images out in a grid, on white.

    `scale` is a whole-number magnification, `gap` the pixels around each image.
    """
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    room = ((0, rows * columns - len(images)), (0, gap), (0, gap), (0, 0))
    cells = np.pad(images, room, constant_values=_WHITE)
    height, width = cells.shape[1:3]
    grid = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    sheet = grid.reshape(rows * height, columns * width, 3)
    return np.pad(sheet, ((gap, 0), (gap, 0), (0, 0)), constant_values=_WHITE)


def thumbnails(images: np.ndarray, longest: int) -> np.ndarray:
    """Makes copies of [n, H, W, 3] uint8 images with a longest side, in pixels.

    Images that are smaller keep their size and every pixel.
    """
    height, width = images.shape[1:3]
    scale = longest / max(height, width)
    if scale >= 1:
        return images
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pictures = [Image.fromarray(image) for image in images]
    lanczos = Image.Resampling.LANCZOS
    return np.stack([np.asarray(picture.resize(size, lanczos)) for picture in pictures])


def captioned_sheet(
    images: np.ndarray, captions: Sequence[str], columns: int, scale: int = 1
) -> np.ndarray:
    """Lays [n, H, W, 3] uint8 images out in a grid, each in a frame above its caption.

    The width depends on W, `columns` and the magnification `scale` alone, however few
    images there are; none make a sheet of height 0.
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

    Of letters that the font lacks, those with an accent lose it and others become an
    empty box. `width` of the picture and `size` of letters are in pixels.
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
