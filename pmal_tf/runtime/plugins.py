"""Finding what the files of a folder declare: a new variant is a file, and no line."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any


def found_in(package: ModuleType, attribute: str) -> list[Any]:
    """Returns what the modules of a package declare under one name, in their order.

    Modules whose source does not assign the name are not even imported, since they may
    be slow to.
    """
    found = []
    assigned = re.compile(rf"^{attribute}\b[^=\n]*=", re.MULTILINE)
    for name in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        full_name = f"{package.__name__}.{name}"
        spec = importlib.util.find_spec(full_name)
        if spec is None or spec.origin is None:
            continue
        if assigned.search(Path(spec.origin).read_text(encoding="utf-8")):
            found.append(getattr(importlib.import_module(full_name), attribute))
    return found
