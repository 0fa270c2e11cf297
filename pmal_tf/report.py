"""A report of finished runs: the paper's tables and figures, beside its numbers.

`python -m pmal_tf.report --runs=runs --out=report` writes `report.html`, `report.md`
and `figures/`; `python -m pmal_tf.report figures` draws the figures only.

`python -m pmal_tf.report save` writes records of the runs into `--results`, and
`--update=README.md` writes the tables between the markers of Markdown files from them.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from pmal_tf.results.collect.ablation_tables import AblationTable, ablation_tables
from pmal_tf.results.collect.records import save_records
from pmal_tf.results.collect.run_folders import Experiment, collect_runs
from pmal_tf.results.figures.figure import Figures, Material, draw_figures
from pmal_tf.results.page.page import cells_only, render_report
from pmal_tf.results.page.published import update_document
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_text

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
_ENTRY = ("name", "value", "unit")


def make_report(
    runs: Path,
    out: Path,
    benchmarks: Sequence[Path] = (),
    *,
    only_figures: bool = False,
) -> Path:
    """Writes the report of all runs in a folder, and returns the HTML page.

    Args:
        runs: The folder of runs.
        out: The folder to write; an older report there is replaced when the new one is
            complete.
        benchmarks: Files of `python -m pmal_tf.benchmark --json`.
        only_figures: Whether to leave the texts of an older report as they are.

    Raises:
        PmalError: If there is nothing to report, runs cannot be averaged, or `out`
            holds something else; then nothing is written.
    """
    _check_out(out)
    speed = read_benchmarks(benchmarks)
    experiments = collect_runs(runs)
    tables = ablation_tables(experiments)
    with _replacement_of(out) as new:
        (new / FIGURES).mkdir()
        figures = draw_all(experiments, tables, new / FIGURES, speed)
        if only_figures:
            for name, reason in figures[1].items():
                logging.info("No figure %s: %s", name, reason)
            for text in (path for path in out.glob("*") if path.is_file()):
                shutil.copy2(text, new)
        else:
            page, markdown = render_report(runs, experiments, tables, speed, figures)
            write_text(new / HTML, page)
            write_text(new / MARKDOWN, markdown)
    return out / HTML


def draw_all(
    experiments: Sequence[Experiment],
    tables: Sequence[AblationTable],
    folder: Path,
    speed: Sequence[Mapping[str, Any]],
) -> Figures:
    """Draws every figure that the runs have the data for into a folder."""
    folders = {
        e.name: [run.folder for run in e.trials] for e in experiments if e.trials
    }
    of_cells = cells_only(experiments, tables)
    detailed = [name for name in folders if name not in of_cells]
    return draw_figures(Material(folders, detailed, tables, speed), folder)


def _check_out(out: Path) -> None:
    """Refuses to replace a file, or a folder that holds something else."""
    if out.is_dir():
        inside = {path.name for path in out.iterdir()}
        strange = sorted(inside - {HTML, MARKDOWN, FIGURES})
    else:
        strange = ["a file of that name"] if out.exists() else []
    if strange:
        raise PmalError(
            "`out` must be a new folder or an older report, which is replaced. "
            f"Received: {out}, which holds {', '.join(strange[:5])}. Choose another "
            "folder with --out."
        )


@contextmanager
def _replacement_of(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place in the end.

    If anything fails, the old folder stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="writing.", dir=target.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise


def read_benchmarks(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads the entries of files of `python -m pmal_tf.benchmark --json`, in order.

    Returns:
        The entries, each with the stem of its file as `file`.

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
                entries.append({**entry, "file": path.stem})
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise PmalError(
                "`benchmarks` must be files that python -m pmal_tf.benchmark KIND "
                f"--json=FILE has written. Received: {path}: {reason}"
            ) from error
    return entries


def save_results(runs: Path, results: Path) -> None:
    """Writes records of all finished runs in a folder into another.

    Runs for a cell of an ablation table only are in the record of the table.

    Raises:
        PmalError: If there is nothing to save, or runs cannot be averaged.
    """
    experiments = [each for each in collect_runs(runs) if each.trials]
    tables = ablation_tables(experiments)
    cells = cells_only(experiments, tables)
    save_records([e for e in experiments if e.name not in cells], tables, results)


def main(argv: Sequence[str], given: Any = flags.FLAGS) -> None:
    """Does what the command line asks for, or ends with a sentence and status 1."""
    if list(argv[1:]) not in ([], ["figures"], ["save"]):
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    runs, out, results = Path(given.runs), Path(given.out), Path(given.results)
    made = results
    try:
        if "save" in argv[1:]:
            save_results(runs, results)
        elif "figures" in argv[1:] or not given.update:
            only_figures, files = "figures" in argv[1:], map(Path, given.benchmarks)
            page = make_report(runs, out, [*files], only_figures=only_figures)
            made = out / FIGURES if only_figures else page
        for path in given.update:
            update_document(Path(path), results)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    except OSError as error:
        sys.exit(f"Error: {error.filename}: {error.strerror}")
    logging.info("Wrote %s", ", ".join(given.update) or made)


if __name__ == "__main__":
    flags.DEFINE_string("runs", "runs", "Folder of run folders.")
    flags.DEFINE_string("out", "report", "Folder to write; replaces an older report.")
    flags.DEFINE_list(
        "benchmarks", [], "Files that python -m pmal_tf.benchmark --json has written."
    )
    flags.DEFINE_string("results", "experiments/results", "Folder of records.")
    flags.DEFINE_list(
        "update", [], "Markdown files whose tables are to be written from --results."
    )
    logging.set_verbosity(logging.INFO)
    app.run(main)
