"""Robustness of many images, killed in the middle again and again.

    python tests/acceptance/mining_killed.py --out=DIR

Computes the robustness of 60,000 random images in a process of its own without
interruption; then again, killed with SIGKILL at five random moments within the loop
over blocks and started again each time. Both must give the same bits.
"""

import argparse
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np


def work(
    out: Path, name: str, count: int, classes: int, seconds_between: float
) -> None:
    """Computes the robustness, saying each block that is done."""
    from pmal_tf.mining import progress, robustness

    progress._SECONDS_BETWEEN_FILES = seconds_between
    sums = robustness.difference_sums

    def told(*arguments, plan, start, **options):
        print(f"begins {start} {plan.blocks}", flush=True)
        for block in sums(*arguments, plan=plan, start=start, **options):
            yield block
            # The file was written or not; now is a moment to be killed.
            print(f"block {block}", flush=True)

    robustness.difference_sums = told
    generator = np.random.default_rng(0)
    first = generator.normal(size=(count, classes)).astype(np.float32)
    second = first + generator.normal(size=first.shape).astype(np.float32)
    result = robustness.topology_robustness(
        [first, second],
        [np.eye(classes)] * 2,
        unfinished=out / f"{name}_unfinished.npz",
    )
    np.save(out / f"{name}.npy", result.exponent)


def start(arguments: list[str]) -> subprocess.Popen:
    """Starts a worker process."""
    command = [sys.executable, __file__, "--worker", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def run(arguments: list[str], kill_at: float | None) -> bool:
    """Runs a worker, killed after a share of its blocks; tells whether it ended."""
    with start(arguments) as process:
        _, begins, blocks = process.stdout.readline().split()
        begins, blocks = int(begins), int(blocks)
        stop = None
        if kill_at is not None:
            stop = begins + 1 + int(kill_at * (blocks - begins - 1))
        for line in process.stdout:
            if stop is not None and int(line.split()[1]) >= stop:
                process.send_signal(signal.SIGKILL)
                print(f"went on from block {begins}, killed after {stop} of {blocks}")
                return False
    assert process.returncode == 0
    print(f"went on from block {begins} of {blocks} to the end")
    return True


def main(
    out: Path, count: int, classes: int, kills: int, seconds_between: float
) -> None:
    """Compares the bits of an uninterrupted computation with those of a killed one."""
    out.mkdir(parents=True, exist_ok=True)
    common = [f"--out={out}", f"--count={count}", f"--classes={classes}"]
    common.append(f"--seconds_between={seconds_between}")
    run([*common, "--name=whole"], None)
    moments = random.Random(0)
    for _ in range(kills):
        # In the first three quarters of what is left, so that all kills find some.
        run([*common, "--name=killed"], 0.75 * moments.random())
    run([*common, "--name=killed"], None)
    whole, killed = (np.load(out / f"{name}.npy") for name in ("whole", "killed"))
    assert len(np.unique(whole)) > count // 2
    assert whole.tobytes() == killed.tobytes()
    print(f"{count} images, {kills} kills: the same bits.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds_between", type=float, default=2.0)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--name", default="")
    given = vars(parser.parse_args())
    worker, name = given.pop("worker"), given.pop("name")
    if worker:
        given.pop("kills")
        work(name=name, **given)
    else:
        main(**given)
