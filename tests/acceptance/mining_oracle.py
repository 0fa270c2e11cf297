"""Mining against an independent oracle: full float64 matrices and the paper's loops.

    python tests/acceptance/mining_oracle.py --trial=runs/cifar10_cpu/trial_0

Reads a mined trial's embeddings and kernels, computes Eq. 7 in the form that the trial
has (`--topology`), the candidates and Algorithm 1 by scipy and loops (N x N matrices:
2.3 GiB for 12,000 images), and compares them with what the trial holds.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from topology_oracle import oracle_bound, oracle_distances, oracle_exponent


def oracle_prototypes(
    members: np.ndarray,
    exponent: np.ndarray,
    example_id: np.ndarray,
    distance: np.ndarray,
    rule: str,
    epsilon: float,
    wanted: int,
) -> tuple[list[int], list[int]]:
    """Returns the candidates and prototypes of a class, line by line as printed."""
    ranked = sorted(members, key=lambda i: (exponent[i], example_id[i]))
    if rule == "share":
        passed = ranked[: round(epsilon * len(ranked))]
    else:
        best = np.exp(-exponent[ranked[0]])
        passed = [i for i in ranked if np.exp(-exponent[i]) >= epsilon * best]
    pool = passed if len(passed) >= wanted else ranked[:wanted]
    spread = {pool[0]: max(distance[i, j] for i in pool for j in pool)}
    for place, i in enumerate(pool[1:], start=1):
        spread[i] = min(distance[i, j] for j in pool[:place])
    order = sorted(pool, key=lambda i: -spread[i])  # Stable: equals keep their rank.
    return pool, order[:wanted]


def main(trial: Path) -> None:
    """Compares a trial with the oracle.

    Raises:
        AssertionError: If anything differs by more than it may.
    """
    config = json.loads((trial / "config.json").read_text())
    report = json.loads((trial / "mining" / "report.json").read_text())
    with np.load(trial / "mining" / "robustness.npz") as stored:
        mined = dict(stored)
    distances = [
        oracle_distances(
            np.load(trial / "mining" / f"embedding_{u}.npy"), mined[f"kernel_{u}"]
        )
        for u in range(2)
    ]
    exponent = oracle_exponent(*distances, config["topology"])
    bound = oracle_bound(exponent, distances, config["topology"])
    error = np.abs(mined["exponent"] - exponent)
    print(
        f"{len(exponent)} images, {config['mining_dtype']}: error of the exponent at "
        f"most {error.max():.2g}, {(error / exponent).max():.2g} of itself, "
        f"{(error / bound).max():.2g} of what it may be"
    )
    assert (error <= bound).all()
    with np.load(trial / "mining" / "prototypes.npz") as stored:
        prototypes = dict(stored)
    for label, entry in enumerate(report):
        members = np.flatnonzero(mined["class_index"] == label)
        settings = ("candidate_rule", "epsilon", "prototypes_per_class")
        settings = [config[name] for name in settings]
        pool, chosen = oracle_prototypes(
            members, exponent, mined["example_id"], distances[0], *settings
        )
        # By the engine's own exponents, the same images pass.
        passing, _ = oracle_prototypes(
            members, mined["exponent"], mined["example_id"], distances[0], *settings
        )
        assert entry["candidates"] == len(pool), entry
        assert set(passing) == set(pool)
        ids = prototypes["example_id"][prototypes["class_index"] == label]
        assert ids.tolist() == mined["example_id"][chosen].tolist(), entry
        print(
            f"{entry['class_name']}: {len(pool)} candidates, {len(chosen)} prototypes"
        )
    print("Same candidates, same prototypes, in the same order.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trial", type=Path, required=True)
    main(parser.parse_args().trial)
