"""Numbers printed in the paper, as fractions (Table 1, averages over 5 trials)."""

from __future__ import annotations

# (backbone, dataset) -> closed-set accuracy and AUROC of PMAL, rule DR.
TABLE_1_PMAL: dict[tuple[str, str], dict[str, float]] = {
    ("oscri", "mnist"): {"acc": 0.996, "auroc": 0.995},
    ("oscri", "cifar10"): {"acc": 0.963, "auroc": 0.946},
}
