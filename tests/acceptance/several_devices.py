"""Two hosts and two devices train what one device trains, and a lost host is told.

    python tests/acceptance/several_devices.py [--part=exact|gradient|auroc|lost]

Runs `pmal_tf.run` on scikit-learn's digits, through all stages, on one device, on two
logical CPU devices (`--strategy=mirrored`), and in two processes on loopback
(`--strategy=multi_worker`):

- exact: in float64 without dropout, how far the weights of every stage are apart after
  69 steps;
- gradient: in float32 without dropout, the gradient of the first step of pre-training,
  relative to its length;
- auroc: with the default settings of `digits.flags`, the scores beside those of three
  seeds on one device;
- lost: one of two hosts is killed while training; the other ends with a message, both
  are started again and end with the bits of a pair that was let be; and where one is
  lost, one device goes on alone.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
WAYS = ("mirrored", "hosts")
STAGES = ("pretrain_0", "pretrain_1", "optimize", "control")
SHORT = ("--epochs=3", "--batch_size=32", "--width=0.15", "--prototypes_per_class=4")
# Weights apart in float64, and gradients in float32 relative to their length.
EXACT, GRADIENT = 1e-9, 1e-5


def main() -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser()
    parts = {"exact": exact, "gradient": gradient, "auroc": auroc, "lost": lost}
    parser.add_argument("--part", choices=sorted(parts), action="append")
    parser.add_argument("--launch", type=int, help="run pmal_tf.run on so many devices")
    arguments, flags = parser.parse_known_args()
    if arguments.launch:
        launch(arguments.launch, flags)
        return
    for name in arguments.part or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


def launch(devices: int, flags: list[str]) -> None:
    """Becomes `python -m pmal_tf.run` on a CPU that is cut into logical devices."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, parts)
    sys.argv = ["pmal_tf.run", *flags]
    runpy.run_module("pmal_tf.run", run_name="__main__")


def start(folder: Path, name: str, *flags: str, **environment: str) -> subprocess.Popen:
    """Starts a run; `name` is its experiment, and says how many devices it has."""
    devices = "2" if name.startswith("mirrored") else "1"
    command = [
        *(sys.executable, __file__, "--launch", devices),
        f"--flagfile={ROOT}/experiments/digits.flags",
        *(f"--experiment={name}", f"--workdir={folder}/runs", "--notensorboard"),
        # Each is to compute for itself.
        *(f"--store_dir={folder}/store_{name}", f"--export_dir={folder}/saved_models"),
        *flags,
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment}
    with (folder / f"{name}_{time.monotonic_ns()}.log").open("w") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def start_pair(folder: Path, name: str, *flags: str) -> list[subprocess.Popen]:
    """Starts the two hosts of a run."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("localhost", 0))
    hosts = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    pair = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": hosts}, "task": task})
        flags_of_host = (*flags, "--strategy=multi_worker")
        pair.append(start(folder, name, *flags_of_host, TF_CONFIG=config))
    return pair


def finish(*processes: subprocess.Popen) -> None:
    """Waits until runs have ended well."""
    for process in processes:
        if process.wait(1800):
            raise SystemExit(f"A run failed: {' '.join(process.args)}")


def run_ways(folder: Path, ways: Sequence[str], *flags: str) -> dict[str, Path]:
    """Runs an experiment on one device, and in other ways; returns each one's trial."""
    finish(start(folder, "one", *flags))
    if "mirrored" in ways:
        finish(start(folder, "mirrored", *flags, "--strategy=mirrored"))
    if "hosts" in ways:
        finish(*start_pair(folder, "hosts", *flags))
    names = ("one", *ways)
    return {name: folder / "runs" / name / "trial_0" for name in names}


def weights(trial: Path, stage: str) -> list[np.ndarray]:
    """Returns the weights of a stage's model."""
    import pmal_tf

    return pmal_tf.load_model(trial / stage / "model.keras").get_weights()


def furthest(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Returns the largest difference of two lists of arrays."""
    pairs = zip(one, other, strict=True)
    return max(float(np.abs(np.subtract(a, b, dtype=float)).max()) for a, b in pairs)


def exact(folder: Path, *more: str, ways: Sequence[str] = WAYS) -> None:
    """Compares the weights of every stage in float64."""
    flags = (*SHORT, "--precision=float64", "--dropout=0", *more)
    trials = run_ways(folder, ways, *flags)
    for way in ways:
        for stage in STAGES:
            apart = furthest(weights(trials["one"], stage), weights(trials[way], stage))
            print(f"{way} against one, {stage}, all steps: {apart:.1e} apart")
            check(apart <= EXACT, f"weights are more than {EXACT} apart")


def gradient(folder: Path) -> None:
    """Compares the first step's gradient in float32: the step of plain SGD."""
    flags = ("--optimizer=sgd", "--momentum=0", "--weight_decay=0", "--learning_rate=1")
    # One batch of 32 images, as `digits.flags` has them, so that there is one step.
    flags += ("--schedule=constant", "--epochs=1", "--train_images_per_class=6")
    trials = run_ways(folder, WAYS, *flags, "--dropout=0")
    began = initial_weights(trials["one"])
    moved = {
        way: np.concatenate(
            [(w - b).ravel() for w, b in zip(after(trial), began, strict=True)]
        )
        for way, trial in trials.items()
    }
    for way in WAYS:
        apart = np.linalg.norm(moved[way] - moved["one"]) / np.linalg.norm(moved["one"])
        print(f"{way} against one, gradient of the first step: {apart:.1e} apart")
        check(apart <= GRADIENT, f"gradients are more than {GRADIENT} apart")


def initial_weights(trial_folder: Path) -> list[np.ndarray]:
    """Returns the trainable weights that pre-training began with."""
    from pmal_tf.workflow.config import Config
    from pmal_tf.workflow.experiment import open_trial

    stored = json.loads((trial_folder / "config.json").read_text())
    stored.pop("trial")
    lists = {name: tuple(v) for name, v in stored.items() if isinstance(v, list)}
    trial = open_trial(Config(**{**stored, **lists}), 0)
    model = trial.new_classifier("pretrain", 0)
    return [variable.numpy() for variable in model.trainable_weights]


def after(trial_folder: Path) -> list[np.ndarray]:
    """Returns the trainable weights of M^1."""
    import pmal_tf

    model = pmal_tf.load_model(trial_folder / "pretrain_0" / "model.keras")
    return [variable.numpy() for variable in model.trainable_weights]


def auroc(folder: Path) -> None:
    """Compares scores of default settings with the spread of seeds on one device."""
    for seed in (1, 2):
        finish(start(folder, f"seed_{seed}", f"--seed={seed}"))
    trials = run_ways(folder, WAYS)
    for seed in (1, 2):
        trials[f"one, seed {seed}"] = folder / "runs" / f"seed_{seed}" / "trial_0"
    for way, trial in trials.items():
        model = json.loads((trial / "result.json").read_text())["models"]["pmal"]
        areas = "  ".join(
            f"{rule} {100 * model[rule]['auroc']:.1f}" for rule in ("dr", "pr", "mls")
        )
        print(f"{way}: ACC {100 * model['acc']:.1f}, AUROC {areas}")


def lost(folder: Path) -> None:
    """Kills one of two hosts while it trains, then goes on, with two and with one."""
    flags = (*SHORT, "--epochs=8", "--checkpoint_minutes=0.01")
    finish(*start_pair(folder, "whole", *flags))
    expected = folder / "runs" / "whole" / "trial_0"
    for name, again in (("lost_one", start_pair), ("then_one_device", None)):
        pair = start_pair(folder, name, *flags)
        trial = folder / "runs" / name / "trial_0"
        making = "optimize-*.making/optimize/step_*.npz"
        wait_for(folder / f"store_{name}", making, pair)
        os.kill(pair[1].pid, signal.SIGKILL)
        began = time.monotonic()
        status = pair[0].wait(600)
        seconds = time.monotonic() - began
        log = sorted(folder.glob(f"{name}_*.log"))[0].read_text().strip()
        print(f"{name}: the other ended with {status} after {seconds:.1f} s:")
        print(f"  {log.splitlines()[-1]}")
        check(status == 1, "the other must end with status 1")
        check("another host was lost" in log, "the other must say what happened")
        markers = {p: p.stat().st_mtime_ns for p in trial.glob("*/done.json")}
        if again:
            finish(*again(folder, name, *flags))
        else:
            finish(start(folder, name, *flags))
        repeated = [p for p, t in markers.items() if p.stat().st_mtime_ns != t]
        check(not repeated, f"finished stages were repeated: {repeated}")
        for stage in STAGES:
            apart = furthest(weights(expected, stage), weights(trial, stage))
            print(f"{name}, {stage}: {apart:.1e} from a pair that was let be")
            if again:
                check(apart == 0, "the bits must be the same")


def wait_for(folder: Path, pattern: str, processes: list[subprocess.Popen]) -> None:
    """Waits until a file is there."""
    while not list(folder.glob(pattern)):
        if any(process.poll() is not None for process in processes):
            raise SystemExit("A run ended early")
        time.sleep(0.05)


def check(fine: bool, sentence: str) -> None:
    """Ends the script if something is not as it must be."""
    if not fine:
        raise SystemExit(f"Wrong: {sentence}")


if __name__ == "__main__":
    main()
