"""Run folders written by hand, so that reports can be tested without training."""

from pmal_tf.reports.paper_ablations import BASE
from pmal_tf.workdir import Marker, write_json, write_text

SETTINGS = {
    "dataset": "cifar10",
    "protocol": "neal",
    "backbone": "oscri",
    "seed": 0,
    "width": 0.25,
    "epochs": 5,
    "batch_size": 64,
    "train_images_per_class": 2000,
    **BASE,
    "control": True,
    "reject_rate": 0.05,
}


def model(acc=0.8, dr=0.7, pr=0.72, mls=0.75):
    """Returns the metrics of a model, all OSCR a tenth below AUROC."""
    rules = {
        name: {"auroc": auroc, "oscr": auroc - 0.1, "fpr95": 0.9}
        for name, auroc in (("dr", dr), ("pr", pr), ("mls", mls))
    }
    return {"acc": acc, "macro_f1": acc, **rules}


def make_trial(
    experiment, trial, *, models=None, folder=None, known=None, versions=None, **changes
):
    """Writes a finished trial's records, and returns its folder.

    `changes` are settings; `folder` is another name than that of the trial.
    """
    inputs = {**SETTINGS, **changes, "trial": trial}
    path = experiment / (folder or f"trial_{trial}")
    models = models or {"pmal": model(), "softmax": model(0.7), "control": model(0.8)}
    repeated = ("dataset", "backbone", "protocol", "seed", "epochs", "trial")
    result = {
        **{name: inputs[name] for name in repeated},
        "known": known or [f"class {trial}", "cat"],
        "unknown": ["dog"],
        "unknown_is_estimate": False,
        "models": models,
    }
    write_json(path / "result.json", result)
    write_json(path / "config.json", {"experiment": experiment.name, **inputs})
    environment = {
        "pmal_tf": "0.1.0",
        "python": "3.11.7",
        "packages": {"tensorflow": "2.21.0", **(versions or {})},
        "platform": "Linux",
        "machine": "x86_64",
        "cpu_count": 2,
        "devices": ["/physical_device:CPU:0"],
        "seed": inputs["seed"],
        "git_commit": "abcdef",
    }
    write_json(path / "environment.json", environment)
    write_text(path / "flags.txt", f"--experiment={experiment.name}\n")
    upstream = Marker({}, {}, {}, 60.0, {})
    upstream.write(path / "optimize")
    made_from = {"optimize": upstream.hash}
    Marker(inputs, made_from, {}, 6.0, {}).write(path / "evaluate")
    return path
