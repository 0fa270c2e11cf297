"""From embeddings to prototypes: the whole of Section 4 on plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmal_tf.distances import centred_logits
from pmal_tf.errors import PmalError
from pmal_tf.mining.candidates import quality_rank, select_candidates
from pmal_tf.mining.diversity import diverse_subset
from pmal_tf.mining.robustness import Robustness, topology_robustness


@dataclass(frozen=True)
class ClassReport:
    """What mining did in one class.

    Attributes:
        class_name: The class.
        images: Training images.
        candidates: How many of them are candidates.
        relaxed: Whether too few passed the threshold and the best were taken.
        prototypes: How many were selected.
        robustness_min: Lowest robustness in the class.
        robustness_median: Median.
        robustness_max: Highest.
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
        robustness: Exponent and robustness of every image.
        report: One entry per class.
    """

    selection: list[np.ndarray]
    robustness: Robustness
    report: list[ClassReport]


def mine(
    embeddings: Sequence[np.ndarray],
    kernels: Sequence[np.ndarray],
    class_index: np.ndarray,
    example_id: np.ndarray,
    *,
    class_names: Sequence[str],
    epsilon: float = 0.7,
    prototypes_per_class: int = 10,
    topology_norm: str = "rms",
    dtype: str = "float64",
    memory_mb: int = 512,
    unfinished: Path | None = None,
) -> MiningResult:
    """Mines the prototypes of every class.

    Args:
        embeddings: U arrays [N, D_u]: the training images in each space. Distances
            between candidates are taken in the first.
        kernels: U kernels [D_u, K].
        class_index: [N] in [0, K).
        example_id: [N] strings, each once; they break ties.
        class_names: K names, for the report.
        epsilon: Candidate threshold, in (0, 1].
        prototypes_per_class: T; a class with fewer images gives what it has.
        topology_norm: See `topology_robustness`, as for the following three.
        dtype: Number type of distances.
        memory_mb: Memory budget.
        unfinished: File for sums of a computation that may be cut short.

    Raises:
        PmalError: If the arrays do not fit together or ids repeat.
    """
    if len({len(class_index), len(example_id), *map(len, embeddings)}) != 1:
        raise PmalError(
            "Embeddings, class indices and example ids must tell of the same images. "
            f"Received: {[len(z) for z in embeddings]} embeddings, {len(class_index)} "
            f"class indices, {len(example_id)} ids"
        )
    if len(np.unique(example_id)) != len(example_id):
        raise PmalError("Each example id may occur once. Received: repeated ids")
    robustness = topology_robustness(
        embeddings,
        kernels,
        norm=topology_norm,
        dtype=dtype,
        memory_mb=memory_mb,
        unfinished=unfinished,
    )
    rank = quality_rank(robustness.exponent, example_id)
    candidates = select_candidates(
        robustness.exponent,
        class_index,
        rank,
        num_classes=len(class_names),
        epsilon=epsilon,
        at_least=prototypes_per_class,
    )
    logits = centred_logits(embeddings[0], kernels[0]).numpy()
    selection, report = [], []
    for index, name in enumerate(class_names):
        members = class_index == index
        pool = np.flatnonzero(members & candidates.mask)
        chosen = diverse_subset(logits[pool], rank[pool], prototypes_per_class)
        selection.append(pool[chosen])
        values = robustness.robustness[members]
        report.append(
            ClassReport(
                class_name=name,
                images=int(members.sum()),
                candidates=len(pool),
                relaxed=bool(candidates.relaxed[index]),
                prototypes=len(chosen),
                robustness_min=float(values.min()),
                robustness_median=float(np.median(values)),
                robustness_max=float(values.max()),
            )
        )
    return MiningResult(selection=selection, robustness=robustness, report=report)
