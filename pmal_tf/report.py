"""A report of finished runs: the paper's tables and figures, beside its numbers.

`python -m pmal_tf.report --runs=runs --out=report` writes `report.html`, `report.md`
and `figures/`; `python -m pmal_tf.report figures` draws the figures only.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from pmal_tf.results.collect.ablation_tables import AblationTable, ablation_tables
from pmal_tf.results.collect.run_folders import Experiment, collect_runs
from pmal_tf.results.page.page import (
    FIGURES,
    Figures,
    cells_only,
    check_out,
    replace_folder,
    write_report,
)
from pmal_tf.runtime.errors import PmalError

_ENTRY = ("name", "value", "unit")


def make_report(runs: Path, out: Path, benchmarks: Sequence[Path] = ()) -> Path:
    """Writes the report of all runs in a folder.

    Args:
        runs: The folder of runs.
        out: The folder to write; an older report there is replaced when the new one is
            complete.
        benchmarks: Files of `python -m pmal_tf.benchmark --json`.

    Returns:
        The HTML page.

    Raises:
        PmalError: If there is nothing to report, runs cannot be averaged, or `out`
            holds something else; then nothing is written.
    """
    check_out(out)
    speed = read_benchmarks(benchmarks)
    experiments = collect_runs(runs)

    def draw(folder: Path, tables: Sequence[AblationTable]) -> Figures:
        return draw_all(experiments, tables, folder, benchmarks)

    return write_report(runs, experiments, out, speed, draw)


def make_figures(runs: Path, out: Path, benchmarks: Sequence[Path] = ()) -> Path:
    """Draws the figures only, into `<out>/figures`.

    Args:
        runs: The folder of runs.
        out: The folder of the report.
        benchmarks: Files of `python -m pmal_tf.benchmark --json`.

    Returns:
        The folder of figures.

    Raises:
        PmalError: As `make_report`.
    """
    check_out(out)
    read_benchmarks(benchmarks)
    experiments = collect_runs(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    tables = ablation_tables(experiments)
    with tempfile.TemporaryDirectory(prefix="writing.", dir=out.parent) as beside:
        new = Path(beside) / FIGURES
        new.mkdir()
        _, skipped = draw_all(experiments, tables, new, benchmarks)
        for each in skipped:
            logging.info("No figure %s: %s", each.name, each.reason)
        out.mkdir(exist_ok=True)
        replace_folder(new, out / FIGURES, Path(beside) / "old")
    return out / FIGURES


def draw_all(
    experiments: Sequence[Experiment],
    tables: Sequence[AblationTable],
    folder: Path,
    benchmarks: Sequence[Path],
) -> Figures:
    """Draws every figure that the runs have the data for.

    Args:
        experiments: All experiments.
        tables: The filled tables of the paper.
        folder: Where the figures go.
        benchmarks: Benchmark files, for the figures of speed.

    Returns:
        The figures that were drawn, and those that were not, with the reason.
    """
    # Matplotlib takes a second, and mistakes should be told before.
    from pmal_tf.results.figures.draw import draw_figures
    from pmal_tf.results.figures.figure import Material

    of_cells = cells_only(experiments, tables)
    folders = {
        experiment.name: [run.folder for run in experiment.trials]
        for experiment in experiments
        if experiment.trials
    }
    detailed = [name for name in folders if name not in of_cells]
    return draw_figures(Material(folders, detailed, tables, benchmarks), folder)


def read_benchmarks(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads files of `python -m pmal_tf.benchmark --json`.

    Args:
        paths: The files.

    Returns:
        Their entries, in order.

    Raises:
        PmalError: If one is missing, or is no such file.
    """
    entries = []
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, list):
                raise ValueError("not a list")
            for entry in content:
                if not isinstance(entry, dict) or not set(_ENTRY) <= set(entry):
                    raise ValueError(f"an entry lacks {', '.join(_ENTRY)}")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise PmalError(
                "`benchmarks` must be files that python -m pmal_tf.benchmark KIND "
                f"--json=FILE has written. Received: {path}: {reason}"
            ) from error
        entries += content
    return entries


def _main(argv: list[str]) -> None:
    """Makes what the flags ask for."""
    given = flags.FLAGS
    if argv[1:] not in ([], ["figures"]):
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    make = make_figures if argv[1:] else make_report
    benchmarks = [Path(path) for path in given.benchmarks]
    try:
        made = make(Path(given.runs), Path(given.out), benchmarks)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    except OSError as error:
        sys.exit(f"Error: {error.filename}: {error.strerror}")
    logging.info("Wrote %s", made)


if __name__ == "__main__":
    flags.DEFINE_string("runs", "runs", "Folder of run folders.")
    flags.DEFINE_string("out", "report", "Folder to write; replaces an older report.")
    flags.DEFINE_list(
        "benchmarks", [], "Files that python -m pmal_tf.benchmark --json has written."
    )
    logging.set_verbosity(logging.INFO)
    app.run(_main)
