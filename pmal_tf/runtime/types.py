"""Types that several parts share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Images(Protocol):
    """Images [N, H, W, 3]: an array, or a file of which an index reads a part."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, 3]."""
        ...

    @property
    def dtype(self) -> Any:
        """NumPy type of the pixels."""
        ...

    def __len__(self) -> int:
        """Returns N."""
        ...

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Returns the images of a slice or of an array of positions."""
        ...
