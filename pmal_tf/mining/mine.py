"""From embeddings to prototypes: the whole of Section 4 on plain arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmal_tf.mining.candidates import (
    Candidates,
    matched_candidates,
    quality_rank,
    select_candidates,
)
from pmal_tf.mining.filters import FILTERS, RankedCandidates
from pmal_tf.mining.qualities import QUALITIES, QualityInput
from pmal_tf.mining.robustness import Robustness, topology_robustness
from pmal_tf.mining.settings import MiningSettings
from pmal_tf.mining.spaces import Space
from pmal_tf.runtime.errors import PmalError


@dataclass(frozen=True)
class ClassReport:
    """What mining did in one class: how many images were what, and their robustness.

    Attributes:
        relaxed: Whether too few passed the threshold and the best were taken.
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
        robustness: Of every image.
        quality_exponent: [N] exponents of the quality that was asked for.
        report: One entry per class.
    """

    selection: list[np.ndarray]
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
        settings: By default the paper's.
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
    dropped = [dropout_space] if settings.quality == "mc_dropout" else []
    _check_images([*spaces, *dropped], class_index, example_id, len(class_names))
    if robustness is None:
        robustness = robustness_of(spaces, class_index, settings, seed, unfinished)
    exponent = QUALITIES[settings.quality](
        QualityInput(spaces, class_index, robustness.exponent, dropout_space, seed)
    )
    candidates, rank = _candidates(
        robustness.exponent, exponent, class_index, example_id, settings
    )
    ranked = RankedCandidates.of(candidates.mask, class_index, rank, spaces[0])
    chosen = FILTERS[settings.diversity](ranked, settings.prototypes_per_class, seed)
    selection = [ranked.position[rows] for rows in chosen]
    report = []
    for index, name in enumerate(class_names):
        own = robustness.robustness[class_index == index]
        report.append(
            ClassReport(
                class_name=name,
                images=len(own),
                candidates=int(candidates.count[index]),
                relaxed=bool(candidates.relaxed[index]),
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
        norm=settings.topology_norm,
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
) -> tuple[Candidates, np.ndarray]:
    """Selects candidates, and ranks all images by the quality.

    Without a quality all images are candidates, and Algorithm 1, which needs an order,
    goes by robustness. `exponent` is that of the quality that was asked for.
    """
    select = functools.partial(
        select_candidates,
        class_index=class_index,
        epsilon=settings.epsilon,
        at_least=settings.prototypes_per_class,
    )
    by_robustness = quality_rank(robustness, example_id)
    if settings.quality in ("robustness", "none"):
        return select(exponent, rank=by_robustness), by_robustness
    rank = quality_rank(exponent, example_id)
    if settings.candidate_rule == "literal":
        return select(exponent, rank=rank), rank
    model = select(robustness, rank=by_robustness)
    return matched_candidates(model, rank, class_index), rank


def _check_images(
    spaces: Sequence[Space | None],
    class_index: np.ndarray,
    example_id: np.ndarray,
    num_classes: int,
) -> None:
    """Checks that all arrays tell of the same images, and each class of some."""
    for number, space in enumerate(spaces):
        if space is None:
            raise PmalError(
                "`quality=mc_dropout` needs a model that was trained with dropout on "
                "its embedding. Received: dropout_space=None"
            )
        space.check(number, num_classes)
    counts = [len(space.embedding) for space in spaces if space is not None]
    if class_index.ndim != 1 or class_index.dtype.kind not in "iu":
        raise PmalError(
            "Class indices must be [N] integers. Received: shape "
            f"{class_index.shape} of {class_index.dtype}"
        )
    if len({len(class_index), len(example_id), *counts}) != 1:
        raise PmalError(
            "Embeddings, class indices and example ids must tell of the same images. "
            f"Received: {counts} embeddings, {len(class_index)} class indices, "
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
