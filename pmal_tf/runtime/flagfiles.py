"""Flagfiles that can be nested, found from anywhere, and told what is wrong in them.

absl's own expansion looks nested files up from the working directory, lets a flagfile
win over the command line when it stands later, and takes a line without dashes for an
argument. So the files are expanded here, before absl parses the flags.
"""

from __future__ import annotations

from pathlib import Path

from pmal_tf.runtime.errors import PmalError

_FLAG = "--flagfile"


def expand_flagfiles(
    arguments: list[str],
) -> tuple[list[str], list[str], list[Path]]:
    """Splits a command line into the flags from files and its own.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The flags read from files, the command line's other arguments, and the files
        that the command line names.

    Raises:
        PmalError: If a file cannot be read, includes itself, or has a line that is not
            a flag.
    """
    own: list[str] = []
    files: list[Path] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        name, equals, value = argument.partition("=")
        if name.lstrip("-") != "flagfile" or not name.startswith("-"):
            own.append(argument)
            continue
        if not equals:
            if position == len(arguments):
                raise PmalError(f"`{_FLAG}` needs a path. Received: {_FLAG} alone")
            value = arguments[position]
            position += 1
        files.append(Path(value))
    from_files = [flag for file in files for flag in _read(file, including=())]
    return from_files, own, files


def experiment_name(files: list[Path]) -> str:
    """Returns the experiment's name of flagfiles, their stems joined by `+`."""
    return "+".join(file.stem for file in files)


def _read(file: Path, including: tuple[Path, ...]) -> list[str]:
    """Returns the flags of a file, nested ones in their place.

    Raises:
        PmalError: See `expand_flagfiles`.
    """
    resolved = file.resolve()
    if resolved in including:
        raise PmalError(f"A flagfile may not include itself. Received: {file}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise PmalError(
            f"`{_FLAG}` must name a readable file. Received: {file}: {reason}"
        ) from error
    collected = []
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith(("#", "//")):
            continue
        name, equals, value = line.partition("=")
        if not name.startswith("--"):
            raise PmalError(
                "Every line of a flagfile must be `--name=value`, a comment or empty. "
                f"Received: {file}, line {number}: {line!r}"
            )
        if name == _FLAG and equals:
            nested = _nested_path(file, value)
            collected += _read(nested, (*including, resolved))
        else:
            collected.append(line)
    return collected


def _nested_path(file: Path, value: str) -> Path:
    """Looks a nested file up beside the including one, then from where we are."""
    beside = file.parent / value
    return beside if beside.exists() else Path(value)
