"""Numbers printed in the paper: closed-set accuracy and AUROC of PMAL, rule DR.

Table 1 gives averages over 5 trials, Table 2 one split each, in percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pmal_tf.data.class_lists import all_protocols

# The paper's method, the only one that its numbers are of.
METHOD = "pmal"
# What is compared here with the paper's AUROC, which is of DR, and with its accuracy.
COMPARED_WITH = {"auroc": "dr.auroc", "acc": "acc"}

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
