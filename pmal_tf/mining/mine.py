"""From embeddings to prototypes: the whole of Section 4 on plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmal_tf.mining.filters import FILTERS, Positions
from pmal_tf.mining.qualities import QUALITIES, QualityInput
from pmal_tf.mining.robustness import Robustness, topology_robustness
from pmal_tf.mining.settings import MiningSettings
from pmal_tf.mining.spaces import Space, check_spaces, diverged
from pmal_tf.runtime.errors import PmalError


@dataclass(frozen=True)
class ClassReport:
    """What mining did in one class: how many images were what, and their robustness.

    It is `relaxed` where too few passed the threshold and the best were taken.
    """

    class_name: str
    images: int
    candidates: int
    relaxed: bool
    prototypes: int
    robustness_min: float
    robustness_median: float
    robustness_max: float


@dataclass(frozen=True)
class MiningResult:
    """Selected images, the robustness of all, and a report.

    Attributes:
        selection: For each class, positions of its prototypes among the N images, in
            order of selection.
        quality_exponent: [N] exponents of the quality that was asked for.
    """

    selection: Positions
    robustness: Robustness
    quality_exponent: np.ndarray
    report: list[ClassReport]


def mine(
    spaces: Sequence[Space],
    class_index: np.ndarray,
    example_id: np.ndarray,
    *,
    class_names: Sequence[str],
    settings: MiningSettings | None = None,
    dropout_space: Space | None = None,
    seed: int = 0,
    unfinished: Path | None = None,
    robustness: Robustness | None = None,
) -> MiningResult:
    """Mines the prototypes of every class.

    Args:
        spaces: The U >= 2 models' views of the N training images. Distances between
            candidates are taken in the first.
        class_index: [N] in [0, K).
        example_id: [N] strings, each once; they break ties.
        class_names: K names, for the report.
        settings: By default those of `MiningSettings`.
        dropout_space: The view of the model that `mc_dropout` needs.
        seed: Seed of anchors, of dropout, and of filters that draw.
        unfinished: File for the numbers of a computation that may be cut short.
        robustness: That of these images in these spaces, by these settings and seed,
            where it is known; by default it is computed.

    Raises:
        PmalError: If the arrays do not fit together or ids repeat.
    """
    settings = settings or MiningSettings()
    class_index = np.asarray(class_index)
    checked = list(spaces)
    if settings.quality == "mc_dropout":
        if dropout_space is None:
            raise PmalError(
                "`quality=mc_dropout` needs a model that was trained with dropout on "
                "its embedding. Received: dropout_space=None"
            )
        checked.append(dropout_space)
    _check(checked, class_index, example_id, len(class_names))
    if robustness is None:
        robustness = robustness_of(spaces, class_index, settings, seed, unfinished)
    exponent = QUALITIES[settings.quality](
        QualityInput(spaces, class_index, robustness.exponent, dropout_space, seed)
    )
    ranked, count, relaxed = _candidates(
        robustness.exponent, exponent, class_index, example_id, settings
    )
    candidates = [own[:most] for own, most in zip(ranked, count, strict=True)]
    selection = FILTERS[settings.diversity](
        candidates, spaces[0], settings.prototypes_per_class, seed
    )
    report = []
    for index, name in enumerate(class_names):
        own = robustness.robustness[ranked[index]]
        report.append(
            ClassReport(
                class_name=name,
                images=len(own),
                candidates=int(count[index]),
                relaxed=bool(relaxed[index]),
                prototypes=len(selection[index]),
                robustness_min=float(own.min()),
                robustness_median=float(np.median(own)),
                robustness_max=float(own.max()),
            )
        )
    return MiningResult(selection, robustness, exponent, report)


def robustness_of(
    spaces: Sequence[Space],
    class_index: np.ndarray,
    settings: MiningSettings,
    seed: int,
    unfinished: Path | None = None,
) -> Robustness:
    """Returns the robustness that `mine` computes with these arguments."""
    return topology_robustness(
        [space.embedding for space in spaces],
        [space.kernel for space in spaces],
        topology=settings.topology,
        dtype=settings.mining_dtype,
        memory_mb=settings.mining_memory_mb,
        anchors=settings.topology_anchors,
        class_index=class_index,
        seed=seed,
        unfinished=unfinished,
    )


def _candidates(
    robustness: np.ndarray,
    exponent: np.ndarray,
    class_index: np.ndarray,
    example_id: np.ndarray,
    settings: MiningSettings,
) -> tuple[Positions, np.ndarray, np.ndarray]:
    """Returns each class's images, best first, and what `count_candidates` does.

    `exponent` is that of the quality that was asked for. A share of the best r means
    something else for it than for robustness: exp(-variance) of a probability is never
    below 0.77, so that any epsilon below keeps every image. Qualities are compared
    fairly at equal numbers, which the rules relative and share give them, and literal
    does not. Without a quality all images are candidates, and Algorithm 1, which needs
    an order, goes by robustness.
    """
    at_least = settings.prototypes_per_class
    if settings.quality == "none":
        ranked = rank_classes(robustness, class_index, example_id)
        return ranked, *count_candidates(exponent, ranked, 1.0, at_least)
    ranked = rank_classes(exponent, class_index, example_id)
    if settings.candidate_rule == "share":
        return ranked, *share_of_candidates(ranked, settings.epsilon, at_least)
    counted, by = exponent, ranked
    if settings.candidate_rule == "relative":
        by, counted = rank_classes(robustness, class_index, example_id), robustness
    return ranked, *count_candidates(counted, by, settings.epsilon, at_least)


def rank_classes(
    exponent: np.ndarray, class_index: np.ndarray, example_id: np.ndarray
) -> list[np.ndarray]:
    """Returns each class's positions from high to low quality, ties by example id.

    Of [N] exponents and [N] classes in [0, K), each of which occurs. The paper's
    "r(x_j) > r(x_i)" is read as "x_j comes before x_i in this order", so that two equal
    samples never both count as the best.
    """
    order = np.lexsort((example_id, exponent, class_index))
    return np.split(order, np.cumsum(np.bincount(class_index))[:-1])


def count_candidates(
    exponent: np.ndarray, ranked: Positions, epsilon: float, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts samples with r(x_i) >= epsilon max r(x_j) of their class (Section 4.1).

    Taken in the log domain, e_i <= min_j e_j - ln(epsilon), where r cannot underflow.
    Where fewer than `at_least` pass, the best `at_least` of the class are taken.

    Args:
        exponent: [N] float64 exponents e of the robustness r = exp(-e).
        ranked: From `rank_classes`, so that those that pass are the first ones.
        epsilon: Threshold in (0, 1].
        at_least: Wanted candidates, the number T of prototypes per class.

    Returns:
        [K] candidates, and [K] booleans: whether fewer had passed.
    """
    margin = np.log(epsilon)
    passed = np.array(
        [(exponent[own] <= exponent[own[0]] - margin).sum() for own in ranked]
    )
    return _at_least(passed, ranked, at_least)


def share_of_candidates(
    ranked: Positions, share: float, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the best `share` of every class, rounded, as `count_candidates` does.

    r >= epsilon max r is e <= min e - ln(epsilon), and 0.36 at epsilon = 0.7 is little
    or nearly everything by the form of the exponent and by how far a network has
    converged. A share of the images is the same under whatever orders them alike.
    """
    passed = np.rint([share * len(own) for own in ranked]).astype(np.int64)
    return _at_least(passed, ranked, at_least)


def _at_least(
    passed: np.ndarray, ranked: Positions, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [K] candidates where some passed, and whether they were too few."""
    least = np.minimum(at_least, [len(own) for own in ranked])
    return np.maximum(passed, least), passed < least


def _check(
    spaces: Sequence[Space],
    class_index: np.ndarray,
    example_id: np.ndarray,
    num_classes: int,
) -> None:
    """Checks that all arrays are of the same images, and that each class has some."""
    kernels = [np.asarray(space.kernel) for space in spaces]
    check_spaces([np.asarray(space.embedding) for space in spaces], kernels)
    for number, (space, kernel) in enumerate(zip(spaces, kernels, strict=True)):
        bias = np.asarray(space.bias)
        if kernel.shape[1] != num_classes or bias.shape != (num_classes,):
            raise PmalError(
                f"With {num_classes} class names, a head has a kernel "
                f"[D, {num_classes}] and a bias [{num_classes}]. Received: "
                f"{kernel.shape} and {bias.shape} in space {number}"
            )
        if not np.isfinite(bias).all():
            raise diverged("Biases", f"in space {number}")
    if class_index.ndim != 1 or class_index.dtype.kind not in "iu":
        raise PmalError(
            "Class indices must be [N] integers. Received: shape "
            f"{class_index.shape} of {class_index.dtype}"
        )
    count = len(spaces[0].embedding)
    if not count == len(class_index) == len(example_id):
        raise PmalError(
            "Embeddings, class indices and example ids must be of the same images. "
            f"Received: {count} embeddings, {len(class_index)} class indices, "
            f"{len(example_id)} ids"
        )
    if len(np.unique(example_id)) != len(example_id):
        raise PmalError("Each example id may occur once. Received: repeated ids")
    present = np.unique(class_index)
    if not np.array_equal(present, np.arange(num_classes)):
        outside = present[(present < 0) | (present >= num_classes)].tolist()
        without = np.setdiff1d(np.arange(num_classes), present).tolist()
        raise PmalError(
            f"Every class index in 0..{num_classes - 1} needs a sample, and no other "
            f"may occur. Received: indices {outside[:10]} outside, classes "
            f"{without[:10]} without a sample"
        )
