"""Shows the finished stages that runs share, and clears those that none uses.

`python -m pmal_tf.cache --workdir=runs` lists them; `--clear` removes what no trial's
folder below the workdir shows, such as results of settings that were tried before, and
what killed commands left.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app, flags

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import MARKER, Marker
from pmal_tf.workflow.store import Store


def describe(workdir: Path, store_dir: Path, *, clear: bool) -> str:
    """Returns what there is, and removes what is not used if that is wanted.

    Raises:
        PmalError: If there is no such folder.
    """
    if not store_dir.is_dir():
        raise PmalError(
            "`store_dir` must be the folder of finished stages. Received: "
            f"{store_dir}, which is not there. Name another with --workdir or "
            "--store_dir."
        )
    # A damaged marker shows nothing.
    shown = (Marker.read(p.parent) for p in workdir.rglob(f"trial_*/*/{MARKER}"))
    used = {marker.key for marker in shown if marker is not None}
    store = Store(store_dir)
    sizes = store.sizes()
    free = [entry for entry in sizes if entry.name.rpartition("-")[2] not in used]
    lines = [
        f"{size / 2**20:10.1f} MiB  {'free' if entry in free else 'used'}  {entry.name}"
        for entry, size in sizes.items()
    ]

    def count(what: str, entries: list[Path]) -> str:
        total = sum(sizes[entry] for entry in entries) / 2**20
        return f"{what.format(len(entries))}, {total:,.1f} MiB."

    lines.append(count("{} results used", [e for e in sizes if e not in free]))
    lines.append(count("{} results not used", free))
    if clear:
        lines.append(count("Removed {} results", store.clear(free)))
    elif free:
        lines.append("--clear removes what is not used.")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Prints what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    values, workdir = flags.FLAGS, Path(flags.FLAGS.workdir)
    store_dir = Path(values.store_dir or workdir / "store")
    try:
        sys.stdout.write(describe(workdir, store_dir, clear=values.clear))
    except (PmalError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "runs", "Folder of run folders.")
    flags.DEFINE_string(
        "store_dir", "", "Folder of finished stages; by default <workdir>/store."
    )
    flags.DEFINE_boolean("clear", False, "Remove what no run below the workdir shows.")
    app.run(main)
