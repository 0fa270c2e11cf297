"""Types that several parts share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Images(Protocol):
    """Images [N, H, W, 3]: an array, or a file of which an index reads a part."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> Any: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray: ...
