"""Image files of many kinds, and what becomes of them in bad hands."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIGNATURES = (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"GIF87a", b"BM")
# Sizes that a header may declare: none, huge, negative, and on both sides of limits.
NUMBERS = (
    *(0, 1, -1, 255, 256, 8192, 8193, 30_000, 65_535, 65_536),
    *(2**31 - 1, -(2**31), 2**32 - 1, 2**30),
)
LONG = 2**20
# First row and column and steps of the seven passes of an interlaced PNG.
ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)


def seeds(random: np.random.Generator) -> dict[str, bytes]:
    """Makes a sound file of every kind; of random pixels, or of smooth colours."""
    height, width = (int(side) for side in random.integers(1, 81, 2))
    pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if random.random() < 0.5:
        ramp = np.linspace(0, 255, width)[:, None] * random.random(3)
        pixels = np.broadcast_to(ramp, pixels.shape).astype(np.uint8)
    colour = Image.fromarray(pixels)
    grey, palette = colour.convert("L"), colour.quantize(16)
    frames = [Image.fromarray(np.roll(pixels, 5 * k, axis=1)) for k in range(3)]
    return {
        "jpeg": saved(colour, "JPEG"),
        "jpeg progressive": saved(colour, "JPEG", progressive=True),
        "jpeg grey": saved(grey, "JPEG"),
        "jpeg cmyk": saved(colour.convert("CMYK"), "JPEG"),
        "png": saved(colour, "PNG"),
        "png 16 bits": png(pixels.astype(np.uint16) * 257, interlaced=False),
        "png grey 16 bits": saved(
            Image.fromarray(pixels[..., 0] * np.uint16(9)), "PNG"
        ),
        "png palette": saved(palette, "PNG"),
        "png interlaced": png(pixels, interlaced=True),
        "png alpha": saved(colour.convert("RGBA"), "PNG"),
        "png grey alpha": saved(colour.convert("LA"), "PNG"),
        "png 1 bit": saved(colour.convert("1"), "PNG"),
        "gif": saved(colour, "GIF", interlace=0),
        "gif interlaced": saved(colour, "GIF", interlace=1),
        "gif animated": saved(
            frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50
        ),
        "bmp": saved(colour, "BMP"),
        "bmp palette": saved(palette, "BMP"),
        "bmp grey": saved(grey, "BMP"),
        "bmp top down": bmp(pixels),
        "bmp run length": run_length_bmp(np.array(grey)),
    }


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Returns the bytes of a file as Pillow writes it."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Returns a chunk of a PNG file, with its length and its check sum."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(pixels: np.ndarray, *, interlaced: bool) -> bytes:
    """Writes [H, W, 3] of 8 or 16 bits as PNG; Pillow writes neither of the two."""
    height, width, _ = pixels.shape
    bits = 8 * pixels.itemsize
    rows = []
    for top, left, down, across in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = pixels[top::down, left::across].astype(f">u{pixels.itemsize}")
        if part.size:
            # Each row is led by its filter, 0 for none.
            rows += [b"\0" + row.tobytes() for row in part]
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, int(interlaced))
    return (
        SIGNATURES[1]
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + png_chunk(b"IEND", b"")
    )


def bmp(pixels: np.ndarray) -> bytes:
    """Writes [H, W, 3] as a BMP from top to bottom, which has a negative height."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, (3 * width + 3) // 4 * 4), np.uint8)
    rows[:, : 3 * width] = pixels[..., ::-1].reshape(height, -1)
    header = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + rows.size, 0, 0, 54) + header + bytes(rows)


def run_length_bmp(grey: np.ndarray) -> bytes:
    """Writes [H, W] as a run-length coded BMP of 8 bits, every run of one pixel."""
    height, width = grey.shape
    rows = [b"".join(bytes([1, value]) for value in row) for row in grey[::-1]]
    data = b"\0\0".join(rows) + b"\0\1"
    palette = b"".join(bytes([k, k, k, 0]) for k in range(256))
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0
    )
    start = 14 + len(header) + len(palette)
    file_header = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    return file_header + header + palette + data


def bit_flips(file: bytes, random: np.random.Generator) -> bytes:
    """Flips a few bits, more often near the start."""
    changed = bytearray(file)
    reach = len(file) if random.random() < 0.5 else min(len(file), 64)
    for position in random.integers(0, reach, random.integers(1, 9)):
        changed[position] ^= 1 << int(random.integers(8))
    return bytes(changed)


def truncated(file: bytes, random: np.random.Generator) -> bytes:
    """Cuts the end off."""
    return file[: random.integers(1, len(file))]


def span(file: bytes, random: np.random.Generator) -> tuple[int, int]:
    """Returns start and end of a part of a file."""
    start, end = sorted(int(place) for place in random.integers(0, len(file), 2))
    return start, end + 1


def part_deleted(file: bytes, random: np.random.Generator) -> bytes:
    """Takes a part out of the middle."""
    start, end = span(file, random)
    return file[:start] + file[end:]


def part_repeated(file: bytes, random: np.random.Generator) -> bytes:
    """Repeats a part up to four times more."""
    start, end = span(file, random)
    return file[:end] + file[start:end] * int(random.integers(1, 5)) + file[end:]


def header_numbers(file: bytes, random: np.random.Generator) -> bytes:
    """Declares another width, another height, or another of both."""
    changed = bytearray(file)
    places, layout = size_fields(file)
    chosen = places if random.random() < 0.5 else [places[random.integers(len(places))]]
    length = struct.calcsize(layout)
    for place in chosen:
        number = int(random.choice(NUMBERS)) % 256**length
        changed[place : place + length] = struct.pack(layout, number)
    if file.startswith(SIGNATURES[1]) and random.random() < 0.8:
        # A right check sum, or the PNG would be refused before its size is believed.
        changed[8:33] = png_chunk(b"IHDR", bytes(changed[16:29]))
    return bytes(changed)


def size_fields(file: bytes) -> tuple[list[int], str]:
    """Returns where a sound file declares its sizes, and how."""
    if file.startswith(b"\x89PNG"):
        return [16, 20], ">I"
    if file.startswith(b"BM"):
        return [18, 22], "<I"
    if file.startswith(b"GIF"):
        frame = 13 + (3 * 2 ** ((file[10] & 7) + 1) if file[10] >= 128 else 0)
        while file[frame] == ord("!"):
            frame += 2
            while file[frame]:
                frame += 1 + file[frame]
            frame += 1
        return [6, 8, frame + 5, frame + 7], "<H"
    start = max(file.find(b"\xff\xc0"), file.find(b"\xff\xc2"))
    return [start + 5, start + 7], ">H"


def spliced(file: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Goes on as another file does."""
    return file[: random.integers(1, len(file))] + other[random.integers(len(other)) :]


def unlike_an_image(kind: str, random: np.random.Generator) -> bytes:
    """Returns bytes that no image file was made into."""
    signature = SIGNATURES[random.integers(len(SIGNATURES))]
    match kind:
        case "signature and noise":
            return signature + random.bytes(random.integers(0, 400))
        case "noise":
            return random.bytes(random.integers(1, 400))
        case "empty":
            return b""
        case "text":
            return ("<svg> \N{LATIN SMALL LETTER U WITH DIAERESIS} {} " * 9).encode()
        case "long noise":
            return random.bytes(LONG)
        case "long signature and noise":
            return signature + random.bytes(LONG)
    raise ValueError(kind)


# Kind -> weight; the long ones are of a megabyte each.
MUTATIONS: dict[str, float] = {
    "sound": 20,
    "bit flips": 15,
    "truncated": 10,
    "part deleted": 8,
    "part repeated": 8,
    "spliced": 8,
    "header numbers": 15,
    "sound and long tail": 0.2,
    "signature and noise": 6,
    "noise": 3,
    "empty": 2,
    "text": 2,
    "long noise": 0.2,
    "long signature and noise": 0.2,
}
_CHANGES = {
    "bit flips": bit_flips,
    "truncated": truncated,
    "part deleted": part_deleted,
    "part repeated": part_repeated,
    "header numbers": header_numbers,
}


def hostile_files(count: int, seed: int) -> list[tuple[str, bytes]]:
    """Makes files, with what was done to each.

    Returns:
        Pairs of a mutation and bytes; of sound files, `sound` and their kind.
    """
    random = np.random.default_rng(seed)
    odds = np.array(list(MUTATIONS.values())) / sum(MUTATIONS.values())
    made: list[tuple[str, bytes]] = []
    sound: dict[str, bytes] = {}
    for number, mutation in enumerate(random.choice(list(MUTATIONS), count, p=odds)):
        if number % 20 == 0:
            sound = seeds(random)
        kind, other = random.choice(list(sound), 2)
        file = sound[kind]
        if mutation == "sound":
            made.append((f"sound {kind}", file))
        elif mutation == "sound and long tail":
            made.append((str(mutation), file + random.bytes(LONG)))
        elif mutation == "spliced":
            made.append((str(mutation), spliced(file, sound[other], random)))
        elif mutation in _CHANGES:
            made.append((str(mutation), _CHANGES[mutation](file, random)))
        else:
            made.append((str(mutation), unlike_an_image(str(mutation), random)))
    return made
