"""Numbers printed in the paper, and the settings that its ablations change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pmal_tf.data.class_lists import all_protocols

# The paper's method, the only one that its numbers are of.
METHOD = "pmal"
# What is compared here with the paper's AUROC, which is of DR, and with its accuracy.
COMPARED_WITH = {"auroc": "dr.auroc", "acc": "acc"}

# Closed-set accuracy and AUROC of PMAL, rule DR, in percent: Table 1, averages over 5
# trials, and Table 2, one split each.
_TABLE_1_AND_2 = {
    "oscri": {
        "mnist": (99.6, 99.5),
        "svhn": (96.5, 96.3),
        "cifar10": (96.3, 94.6),
        "cifar_plus_10": (96.4, 96.0),
        "cifar_plus_50": (96.9, 94.3),
        "tiny_imagenet": (84.4, 81.8),
    },
    "wrn_40_4": {
        "mnist": (99.8, 99.7),
        "svhn": (97.1, 97.0),
        "cifar10": (97.5, 95.1),
        "cifar_plus_10": (97.8, 97.8),
        "cifar_plus_50": (98.1, 96.9),
        "tiny_imagenet": (84.7, 83.1),
    },
    "resnet50": {
        "imagenet_lt": (42.9, 71.7),
        "imagenet100": (86.2, 94.9),
        "imagenet200": (84.1, 93.9),
    },
}
# (backbone, dataset) -> fractions in [0, 1].
PAPER_PMAL: dict[tuple[str, str], dict[str, float]] = {
    (backbone, dataset): {"acc": acc / 100, "auroc": auroc / 100}
    for backbone, row in _TABLE_1_AND_2.items()
    for dataset, (acc, auroc) in row.items()
}


def paper_numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns `acc` and `auroc` that the paper has for a `result.json`, fractions.

    It has none of another method, of classes that nobody has published, and of a
    network or dataset that it does not use.
    """
    if result["method"] != METHOD or result["protocol"] not in all_protocols():
        return {}
    return PAPER_PMAL.get((result["backbone"], result["dataset"]), {})


# The paper's letters.
SYMBOLS = {
    "prototypes_per_class": "T",
    "epsilon": "ε",
    "num_models": "U",
    "margin": "δ",
    "prototype_weight": "λ_p",
}
# The paper's own method; every cell is this with a setting or two changed.
BASE: dict[str, Any] = {
    "quality": "robustness",
    "diversity": "algorithm1",
    "set_distance": "attention",
    "prototypes_per_class": 10,
    "epsilon": 0.7,
    "num_models": 2,
    "margin": 0.5,
    "prototype_weight": 1.0,
}


@dataclass(frozen=True)
class Cell:
    """One row or column of Table 3, 4 or 5, which are of TinyImageNet with WRN-40-4.

    Attributes:
        label: What the table calls it.
        name: What `--ablation` calls it; empty for the paper's own settings.
        overrides: Settings in which it differs from `BASE`.
        paper: The paper's numbers in percent, `auroc` and perhaps `acc`.
    """

    label: str
    name: str
    overrides: dict[str, Any]
    paper: dict[str, float]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, its cells in the paper's order.

    Attributes:
        name: Short name for files and links.
        base: Label of the cell with the paper's own settings.
        about: Pairs of labels that the table is there to compare, beside each cell and
            the base.
        setting: The setting that it sweeps, for a sweep of one.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    base: str
    about: tuple[frozenset[str], ...] = ()
    setting: str | None = None


_NEAREST = {"set_distance": "nearest"}
_A, _B = "(a) quality only", "(b) diversity only"
_C, _D = "(c) quality, point-to-set", "(d) diversity, point-to-set"
_E, _F = "(e) quality, diversity", "(f) all three"
_TABLE_3 = PaperTable(
    "table_3",
    "Table 3: what each component adds",
    (
        Cell(_A, "table3_a", {"diversity": "none", **_NEAREST}, {"auroc": 80.3}),
        Cell(_B, "table3_b", {"quality": "none", **_NEAREST}, {"auroc": 78.1}),
        Cell(_C, "table3_c", {"diversity": "none"}, {"auroc": 81.6}),
        Cell(_D, "table3_d", {"quality": "none"}, {"auroc": 80.2}),
        Cell(_E, "table3_e", _NEAREST, {"auroc": 81.9}),
        Cell(_F, "", {}, {"auroc": 83.1}),
    ),
    base=_F,
    # Point-to-set distance added to (a) and (b), and each property added to the other.
    about=tuple(map(frozenset, ((_A, _C), (_B, _D), (_A, _E), (_B, _E)))),
)
_TABLE_4 = PaperTable(
    "table_4",
    "Table 4: baselines for the robustness and for Algorithm 1",
    tuple(
        Cell(
            label,
            f"table4_{value}" if value != BASE[setting] else "",
            {setting: value} if value != BASE[setting] else {},
            {"acc": acc, "auroc": auroc},
        )
        for label, setting, value, acc, auroc in (
            ("probability", "quality", "probability", 81.9, 79.3),
            ("deep ensembles", "quality", "deep_ensembles", 82.3, 80.5),
            ("MC-dropout", "quality", "mc_dropout", 81.6, 78.8),
            ("randomization", "diversity", "random", 81.5, 79.1),
            ("clustering", "diversity", "kmeans", 81.8, 79.6),
            ("ours", "quality", "robustness", 84.7, 83.1),
        )
    ),
    base="ours",
)


def _sweep(setting: str, numbers: dict[float, float]) -> PaperTable:
    """Returns a table of AUROC over one setting."""
    symbol = SYMBOLS[setting]
    cells = [
        Cell(
            f"{symbol} = {value:g}",
            f"table5_{setting}_{value:g}" if value != BASE[setting] else "",
            {setting: value},
            {"auroc": auroc},
        )
        for value, auroc in numbers.items()
    ]
    return PaperTable(
        name=f"table_5_{setting}",
        title=f"Table 5: {setting.replace('_', ' ')} {symbol}",
        cells=tuple(cells),
        base=f"{symbol} = {BASE[setting]:g}",
        setting=setting,
    )


PAPER_TABLES: tuple[PaperTable, ...] = (
    _TABLE_3,
    _TABLE_4,
    _sweep("prototypes_per_class", {1: 79.9, 5: 81.1, 10: 83.1, 20: 82.6, 30: 83.1}),
    _sweep("epsilon", {0.1: 73.6, 0.3: 78.1, 0.5: 82.6, 0.7: 83.1, 0.9: 81.2}),
    _sweep("num_models", {2: 83.1, 3: 83.3, 4: 83.2, 5: 83.0, 6: 83.3}),
    _sweep("margin", {0.1: 80.9, 0.3: 82.8, 0.5: 83.1, 0.8: 82.1, 1: 80.5}),
    # Of the text below Table 5, not of the table.
    _sweep("prototype_weight", {0.5: 82.6, 0.8: 82.8, 1: 82.9}),
)

# What `--ablation` sets, by name: for the base, that the control is trained too; for a
# cell that differs from it, in what.
CELLS: dict[str, dict[str, Any]] = {
    "base": {
        "compare": "softmax,control",
        "stages": "pretrain,mine,optimize,control,evaluate",
    },
    **{c.name: c.overrides for table in PAPER_TABLES for c in table.cells if c.name},
}
