"""Flagfiles that can be nested, are found from anywhere, and are checked line by line.

absl's own expansion looks nested files up from the working directory, lets a flagfile
win over the command line when it stands later, and takes a line without dashes for an
argument. So the files are expanded here, before absl parses the flags.
"""

from __future__ import annotations

from pathlib import Path

from pmal_tf.runtime.errors import PmalError


def expand_flagfiles(arguments: list[str]) -> tuple[list[str], list[str], list[Path]]:
    """Splits a command line, without the program's name.

    Returns the flags read from flagfiles, its other arguments, and the flagfiles that
    it names.

    Raises:
        PmalError: If a file cannot be read, includes itself, or has a line that is not
            a flag.
    """
    own: list[str] = []
    files: list[Path] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            own.append(argument)
            continue
        path = value if equals else next(rest, None)
        if path is None:
            raise PmalError("`--flagfile` needs a path. Received: --flagfile alone")
        files.append(Path(path))
    return [flag for file in files for flag in _read(file, ())], own, files


def _read(file: Path, including: tuple[Path, ...]) -> list[str]:
    """Returns the flags of a file, nested ones in their place."""
    resolved = file.resolve()
    if resolved in including:
        raise PmalError(f"A flagfile may not include itself. Received: {file}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise PmalError(
            f"`--flagfile` must name a readable file. Received: {file}: {reason}"
        ) from error
    collected = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("--"):
            raise PmalError(
                "Every line of a flagfile must be `--name=value`, a comment or empty. "
                f"Received: {file}, line {number}: {line!r}"
            )
        if line.startswith("--flagfile="):
            value = line.partition("=")[2]
            # Beside the including file, else from where we are.
            beside = file.parent / value
            nested = beside if beside.exists() else Path(value)
            collected += _read(nested, (*including, resolved))
        else:
            collected.append(line)
    return collected
