"""Whole runs, killed at random moments again and again, and started again.

    python tests/acceptance/training_killed.py [--kills=20] [--dataset=both]

Runs a small experiment by the command line without interruption; then again in other
folders, each time killed with SIGKILL two to six times and started again by the same
command. Half of the moments are spread over the time of a whole run, the others over
that of a stage, the short ones included; half of both wait until a file is being
written. Start-up is spared, there is nothing to lose in it. Every run must give the
same bits as the first, and make no finished stage again. With --signal=TERM or INT the
command must, moreover, leave by itself and say so. CIFAR-10 needs TFDS_DATA_DIR.
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

# Half a minute each without start-up; epochs are longer than checkpoints are apart.
FLAGS = {
    "digits": "digits.flags --epochs=3 --batch_size=4 --width=0.4",
    "cifar10": "cifar10_cpu.flags --epochs=2 --batch_size=16 "
    "--train_images_per_class=200",
}
EVERY_RUN = ("--experiment=killed", "--trials=0", "--checkpoint_minutes=0.02")
TRIAL = "runs/killed/trial_0"
# Aimed at in turns: of kills that are spread over a run, few fall into short stages.
AIMS = ("mining", "optimize", "pretrain_1", "mining", "evaluate", "control", "export")
SECONDS_TO_LEAVE = 60
STAGE_LINE = re.compile(r"trial 0  (\w+): (starts|done|finished before)")


@dataclass
class Moment:
    """When to kill.

    Attributes:
        stages: The stage that it is aimed at, and all that come later.
        seconds: How long after the start of one of them.
        writing: Whether to wait, from then on, until a file is being written.
    """

    stages: list[str]
    seconds: float
    writing: bool


class Command:
    """The command, running, and what it has said so far."""

    def __init__(self, flags: list[str], out: Path) -> None:
        self.trial = out / TRIAL
        self.lines: list[str] = []
        # When each stage did what.
        self.said: dict[str, dict[str, float]] = {
            what: {} for what in ("starts", "done", "finished before")
        }
        self.began, self.killed_at = time.time(), 0.0
        folders = (f"--workdir={out / 'runs'}", f"--export_dir={out / 'saved_models'}")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pmal_tf.run", *flags, *EVERY_RUN, *folders],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        """Takes down what is said."""
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := STAGE_LINE.search(line):
                self.said[found[2]].setdefault(found[1], time.monotonic())

    def half_written(self) -> list[str]:
        """Returns the names of files that are being written, or were when killed."""
        names = []
        for path in (*self.trial.glob("writing.*"), *being_made(self.trial)):
            with contextlib.suppress(FileNotFoundError):
                # Not what an earlier kill left.
                if path.match("writing.*") and path.stat().st_mtime >= self.began:
                    names.append(path.name.partition(".")[2].partition(".")[2])
        return names

    def has_come(self, moment: Moment) -> bool:
        """Tells whether it is time to kill."""
        starts = [self.said["starts"].get(stage, np.inf) for stage in moment.stages]
        due = min(starts) + moment.seconds <= time.monotonic()
        return due and (not moment.writing or bool(self.half_written()))

    def end(self, moment: Moment | None, number: int) -> bool:
        """Waits for the end, or sends a signal at a moment; tells whether it killed."""
        sent = False
        while moment is not None and not sent and self.process.poll() is None:
            if sent := self.has_come(moment):
                self.killed_at = time.monotonic()
                os.killpg(self.process.pid, number)
            time.sleep(0.001)
        try:
            self.process.wait(SECONDS_TO_LEAVE if sent else None)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()
        if self.process.returncode and not sent:
            sys.exit("\n".join(["The command failed by itself:", *self.lines[-20:]]))
        return self.process.returncode != 0


def being_made(trial: Path) -> list[Path]:
    """Returns the files of results that are not whole yet."""
    store = trial.parents[1] / "store"
    # `os.walk` passes over what disappears meanwhile.
    return [
        Path(folder) / name
        for making in store.glob("*.making")
        for folder, _, names in os.walk(making)
        for name in names
    ]


def finished_stages(trial: Path) -> dict[str, tuple[int, str]]:
    """Returns the marker of each finished stage, and when it was written."""
    paths = trial.glob("*/done.json")
    return {p.parent.name: (p.stat().st_mtime_ns, p.read_text()) for p in paths}


def files_of_stage_cut_short(trial: Path) -> list[str]:
    """Returns the names of the whole files that a stage left, if one was cut short."""
    names = sorted(path.name for path in being_made(trial))
    return [name for name in names if not name.startswith("writing.")]


def arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Gives the arrays of a Keras model, an npz or an npy file, with their names."""
    if path.suffix == ".npy":
        yield "", np.load(path)
    elif path.suffix == ".npz":
        with np.load(path) as stored:
            yield from stored.items()
    else:
        with zipfile.ZipFile(path) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights) as file:
            names: list[str] = []
            file.visit(names.append)
            for name in names:
                if isinstance(file[name], h5py.Dataset):
                    yield name, file[name][()]


def contents(trial: Path) -> dict[str, str]:
    """Returns what a finished trial made, as hashes and without any times."""
    found = {}
    for pattern in ("*/model.keras", "mining/*.np[yz]", "scores*.npz"):
        for path in sorted(trial.glob(pattern)):
            for name, array in arrays(path):
                digest = hashlib.sha256(array.tobytes()).hexdigest()
                key = f"{path.relative_to(trial)} {name}"
                found[key] = f"{array.dtype} {array.shape} {digest}"
    for pattern in ("result.json", "calibration.json", "mining/report.json"):
        for path in trial.glob(pattern):
            found[pattern] = hashlib.sha256(path.read_bytes()).hexdigest()
    for number, line in enumerate((trial / "metrics.jsonl").read_text().splitlines()):
        record = json.loads(line)
        del record["seconds"], record["images_per_second"]
        found[f"metrics.jsonl line {number + 1}"] = json.dumps(record)
    return found


def moments(whole: Command, draw: random.Random) -> Iterator[Moment]:
    """Gives moments to kill at, like those of an uninterrupted run; without an end."""
    starts, ends = whole.said["starts"], whole.said["done"]
    order = list(starts)
    for aim in itertools.cycle(stage for stage in AIMS if stage in starts):
        anywhere = draw.uniform(starts[order[0]], ends[order[-1]])
        hit = max(i for i, stage in enumerate(order) if starts[stage] <= anywhere)
        seconds = anywhere - starts[order[hit]]
        yield Moment(order[hit:], seconds, draw.random() < 0.5)
        seconds = draw.uniform(0.0, ends[aim] - starts[aim])
        yield Moment(order[order.index(aim) :], seconds, draw.random() < 0.5)


@dataclass
class Experiment:
    """An experiment, and what was seen in its runs.

    Attributes:
        flags: Its flags.
        number: The signal that kills.
        kills: How many fell into each kind of stage.
        from_checkpoints: How many stages went on from a checkpoint.
        repeated: How many stages were made again though finished.
        wrong: All that was wrong, in sentences.
    """

    flags: list[str]
    number: int
    kills: Counter[str] = field(default_factory=Counter)
    from_checkpoints: int = 0
    repeated: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, out: Path, planned: list[Moment]) -> Command:
        """Runs the command, killed at moments, until one comes to its end."""
        # The earliest in the run first.
        planned = sorted(planned, key=lambda m: (-len(m.stages), m.seconds))
        while True:
            finished = finished_stages(out / TRIAL)
            left = files_of_stage_cut_short(out / TRIAL)
            command = Command(self.flags, out)
            killed = command.end(planned.pop(0) if planned else None, self.number)
            told = [line.partition("Going on after ")[2] for line in command.lines]
            going = next(filter(None, told), "")
            first = next(iter(command.said["starts"]), "nothing")
            print(
                f"{out.name}: {first} from",
                going or ", ".join(left) or "its start",
                end=", ",
            )
            self.check_start(command, finished, left, going)
            if not killed:
                print("to the end", flush=True)
                return command
            self.check_kill(command)

    def check_start(
        self,
        command: Command,
        finished: dict[str, tuple[int, str]],
        left: list[str],
        going: str,
    ) -> None:
        """Checks that a command skipped what was finished and used what was left."""
        starts, now = command.said["starts"], finished_stages(command.trial)
        again = [s for s in finished if s in starts or finished[s] != now.get(s)]
        self.repeated += len(again)
        self.wrong += [f"{stage} was made again" for stage in again]
        # One may have been whole, and not yet shown in the trial's folder.
        if not set(finished) <= set(command.said["finished before"]):
            self.wrong.append(f"not all of {', '.join(finished)} were skipped")
        self.from_checkpoints += bool(going)
        # An epoch's line shows that checkpoints had been looked for.
        trained = any(
            f"{s}  epoch" in x for s in list(starts)[:1] for x in command.lines
        )
        if trained and any(name.startswith("step_") for name in left) and not going:
            self.wrong.append(f"{next(iter(starts))} did not go on from {left}")

    def check_kill(self, command: Command) -> None:
        """Counts a kill, and checks how the command left if it was only asked to."""
        stage, at = list(command.said["starts"].items())[-1]
        self.kills[stage.partition("_")[0]] += 1
        half, seconds = command.half_written(), command.killed_at - at
        print(f"killed {seconds:.1f} s into {stage}", *(half and ["writing", *half]))
        if self.number == signal.SIGKILL:
            return
        last, status = command.lines[-1], command.process.returncode
        print(f"  {last}", flush=True)
        if status != 128 + self.number:
            self.wrong.append(f"{stage} left with status {status}")
        if signal.Signals(self.number).name not in last:
            self.wrong.append(f"{stage} did not say in its last line why it left")
        if any("Traceback" in line for line in command.lines):
            self.wrong.append(f"{stage} left with a traceback")


def main(
    name: str, out: Path, kills: int, number: int, *more_flags: str, seed: int = 0
) -> list[str]:
    """Compares an uninterrupted run with killed ones; returns what is wrong."""
    flags = f"--flagfile=experiments/{FLAGS[name]}".split()
    experiment = Experiment([*flags, *more_flags], number)
    command = experiment.run(out / f"{name} whole", [])
    whole, draw, runs = contents(command.trial), random.Random(seed), 0
    to_come = moments(command, draw)
    while (missing := kills - experiment.kills.total()) > 0:
        runs += 1
        planned = itertools.islice(to_come, min(missing, draw.randint(2, 6)))
        command = experiment.run(out / f"{name} run {runs}", list(planned))
        found = contents(command.trial)
        differ = [key for key in {**whole, **found} if whole.get(key) != found.get(key)]
        experiment.wrong += [f"run {runs}: {key} differs" for key in differ]
    stages = ", ".join(f"{stage} {n}" for stage, n in experiment.kills.items())
    print(
        *experiment.wrong,
        f"{name}: {experiment.kills.total()} kills ({stages}), {runs} runs: "
        f"{'NOT AS IT SHOULD BE' if experiment.wrong else 'the same bits'} in "
        f"{len(whole)} arrays and records; {experiment.from_checkpoints} stages went "
        f"on from a checkpoint; {experiment.repeated} finished stages repeated.",
        sep="\n",
    )
    return experiment.wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--dataset", choices=[*FLAGS, "both"], default="both")
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder, wrong = Path(tempfile.mkdtemp(prefix="training_killed_")), []
    for name in FLAGS if given.dataset == "both" else [given.dataset]:
        if name == "cifar10" and not os.environ.get("TFDS_DATA_DIR"):
            print("cifar10: skipped, for TFDS_DATA_DIR is not set.")
            continue
        number = signal.Signals[f"SIG{given.signal}"]
        wrong += main(name, folder, given.kills, number, seed=given.seed)
    if wrong:
        sys.exit(f"What was made is in {folder}")
    shutil.rmtree(folder)
