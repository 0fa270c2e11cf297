"""Decoded images in a file, read row by row: an array that stays on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np


class PixelFile:
    """A file of raw uint8 pixels, square RGB image after image.

    It is opened at once, so that images are read from it should another process put a
    newer file in its place. `size` is the side of the images in pixels.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, row: int, target: memoryview) -> None:
        """Reads image `row` into `target`; an `OSError` if the file ends before."""
        if os.preadv(self._descriptor, [target], row * len(target)) != len(target):
            raise OSError(f"{self._path} ends within image {row}")

    def __del__(self) -> None:
        if "_descriptor" in self.__dict__:  # Not if opening failed.
            os.close(self._descriptor)


class StoredImages:
    """Images of one or more files, of which only those asked for are in memory.

    Rows are read with `pread`, not through a memory map: mapped pages would count as
    the process's own, and grow to the size of the file.

    Args:
        files: Where the pixels are; images of one size.
        places: [N, 2] which file each image is in, and its position there.
        digests: [N, 16] hashes of the images' pixels, see `pixel_digests`.
    """

    def __init__(
        self, files: tuple[PixelFile, ...], places: np.ndarray, digests: np.ndarray
    ) -> None:
        self._files = files
        self._places = places
        self.digests = digests
        self.shape = (len(places), files[0].size, files[0].size, 3)
        self.dtype = np.dtype(np.uint8)

    @classmethod
    def of_file(cls, file: PixelFile, digests: np.ndarray) -> StoredImages:
        """Returns all images of a file, from their hashes."""
        rows = np.arange(len(digests))
        return cls((file,), np.stack([np.zeros_like(rows), rows], axis=1), digests)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Bytes that all images would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def fingerprint(self) -> str:
        """Hash of the images and their order."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()

    def __getitem__(self, index: Any) -> np.ndarray:
        """Reads [..., size, size, 3] uint8 images at a position, slice or array."""
        places = self._places[index]
        images = np.empty((*places.shape[:-1], *self.shape[1:]), np.uint8)
        targets = images.reshape(-1, int(np.prod(self.shape[1:])))
        rows = places.reshape(-1, 2).tolist()
        for (file, row), target in zip(rows, targets, strict=True):
            self._files[file].read(row, target.data)
        return images

    def take(self, index: np.ndarray) -> StoredImages:
        """Returns the images at [n] positions, or of an [N] mask, still on disk."""
        return StoredImages(self._files, self._places[index], self.digests[index])

    def followed_by(self, other: StoredImages) -> StoredImages:
        """Returns these images and then others of the same size, still on disk."""
        moved = other._places + np.array([len(self._files), 0])
        return StoredImages(
            self._files + other._files,
            np.concatenate([self._places, moved]),
            np.concatenate([self.digests, other.digests]),
        )


def pixel_digests(images: np.ndarray) -> np.ndarray:
    """Returns a hash of each image, [N, 16] uint8."""
    digests = [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for image in images
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
