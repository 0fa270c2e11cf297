"""Settings as flags: declared, grouped, read in one function."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

from absl import flags

from pmal_tf.methods import registry
from pmal_tf.results.collect.paper import CELLS
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.flagfiles import expand_flagfiles
from pmal_tf.runtime.settings import kind_of, settings_in
from pmal_tf.workflow.config import AUTO, GROUPS, Config

_DEFINE: dict[type, Any] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    list: flags.DEFINE_list,
}


def _groups() -> list[type]:
    """Returns every group of settings, those of all methods included."""
    return [*GROUPS.values(), *(m.Settings for m in registry.all_methods().values())]


def all_settings() -> dict[str, dataclasses.Field]:
    """Returns every setting by its name, those of all methods included."""
    return {field.name: field for group in _groups() for field in settings_in(group)}


def define_flags() -> None:
    """Defines one absl flag per setting, and `--ablation`, which sets some of them."""
    flags.DEFINE_enum(
        "ablation",
        None,
        list(CELLS),
        "Cell of the paper's Tables 3 to 5 whose settings to take, whatever flagfiles "
        "say; the experiment is called so by default.",
    )
    for field in all_settings().values():
        define_flag(field, flags.FLAGS)


def define_flag(field: dataclasses.Field, values: flags.FlagValues) -> None:
    """Defines the flag of a setting."""
    default: Any = field.default
    if isinstance(default, tuple):
        default = [str(item) for item in default]
    define = _DEFINE[type(default)]
    define(field.name, default, _help_of(field), flag_values=values)


def _help_of(field: dataclasses.Field) -> str:
    """Returns what a setting is and what it may be."""
    allowed, text = field.metadata["allowed"], field.metadata["help"]
    if isinstance(allowed, tuple):
        return f"{text} One of {', '.join(filter(None, allowed))}."
    return text if allowed is None else f"{text} In {allowed}."


def short_help() -> str:
    """Returns the settings that most users need, by group, with their defaults."""
    lines = ["Flags that matter most; --helpfull lists all.", ""]
    for group in _groups():
        common = [field for field in settings_in(group) if field.metadata["common"]]
        if common:
            title = re.split("[.;:]", str(group.__doc__))[0]
            lines.append(f"{title}:")
        for field in common:
            shown = f" [{_text_of(field.default)}]" if field.default != "" else ""
            lines.append(f"  --{field.name}{shown}\n      {_help_of(field)}")
    return "\n".join(lines)


def parse_arguments(argv: list[str]) -> list[str]:
    """Parses a command line with its flagfiles into absl's `FLAGS`.

    Flags on the command line win over flagfiles, wherever they stand. Settings in a
    flagfile of a method that is not in use do not matter; on the command line they are
    a mistake.

    Returns:
        What is left: the program's name, and arguments that are not flags.

    Raises:
        PmalError: If a flagfile cannot be read.
        absl.flags.Error: If a flag is unknown or has a value of a wrong type.
    """
    from_files, from_command_line, top_level = expand_flagfiles(argv[1:])
    stems = "+".join(file.stem for file in top_level)
    if stems:
        flags.FLAGS.set_default("experiment", stems)
    left = flags.FLAGS([argv[0], *from_files, *from_command_line])
    names = (argument.lstrip("-").partition("=")[0] for argument in from_command_line)
    asked = {name.removeprefix("no") for name in names}
    if cell := flags.FLAGS["ablation"].value:
        # A flagfile called common_cpu only says what the cells have in common.
        shared = stems.removeprefix("common").lstrip("_")
        flags.FLAGS.set_default("experiment", "_".join(filter(None, (cell, shared))))
        for name, value in CELLS[cell].items():
            if name not in asked:
                flags.FLAGS[name].parse(str(value))
        asked |= CELLS[cell].keys()
    method, compare = str(flags.FLAGS["method"].value), flags.FLAGS["compare"].value
    own = registry.all_methods().get(method)
    beside = own.beside if own is not None and compare == [AUTO] else ()
    in_use = {method, *(compare or ()), *beside}
    for name, (owner, _) in registry.owners().items():
        if owner not in in_use and name not in asked:
            flags.FLAGS[name].unparse()
    return left


def config_from_flags() -> Config:
    """Reads absl's `FLAGS`, here and nowhere else, into a checked `Config`."""
    values: dict[str, Any] = {}
    for name, field in all_settings().items():
        flag = flags.FLAGS[name]
        # The experiment's default is the name of the flagfiles.
        if flag.present or name == "experiment":
            values[name] = value_of_flag(field, flags.FLAGS)
    return Config(**values)


def read_flagfile(path: Path) -> dict[str, Any]:
    """Returns the settings that a flagfile gives, by name.

    Raises:
        PmalError: If the file cannot be read, or a flag in it is none of a run's.
    """
    fields, values = all_settings(), flags.FlagValues()
    for field in fields.values():
        define_flag(field, values)
    given, _, _ = expand_flagfiles([f"--flagfile={path}"])
    try:
        values([str(path), *given])
    except flags.Error as error:
        raise PmalError(
            f"A flagfile must have flags of `pmal_tf.run` alone. Received: {path}: "
            f"{error}"
        ) from error
    return {n: value_of_flag(f, values) for n, f in fields.items() if values[n].present}


def to_flags(config: Config) -> str:
    """Returns settings as a flagfile, one `--name=value` per line."""
    fields = all_settings()
    texts = {name: _text_of(value) for name, value in config.values().items()}
    return "".join(
        f"--{name}={text}\n"
        for name, text in texts.items()
        if text or fields[name].default
    )


def _text_of(value: Any) -> str:
    """Writes a value as absl reads it; a list with commas, quoted where needed."""
    if isinstance(value, tuple):
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(value)
        return text.getvalue()
    return str(value).lower() if isinstance(value, bool) else str(value)


def value_of_flag(field: dataclasses.Field, values: flags.FlagValues) -> Any:
    """Returns a flag's value; a list as a tuple of the type of the default's items.

    Raises:
        PmalError: If an item is not of that type.
    """
    value: Any = values[field.name].value
    if not isinstance(field.default, tuple):
        return value
    expected = f"`{field.name}` must list, separated by commas, values"
    return tuple(parse_item(field, item, expected) for item in value)


def parse_item(field: dataclasses.Field, item: str, expected: str) -> Any:
    """Converts a text to a setting's type; the error's message begins as `expected`."""
    kind = kind_of(field)
    try:
        return kind(item.strip())
    except ValueError as error:
        raise PmalError(
            f"{expected} of type {kind.__name__}. Received: {item.strip()!r}"
        ) from error
