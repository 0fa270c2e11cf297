"""Run folders written by hand, so that reports can be tested without training."""

from pmal_tf.results.collect.paper import BASE
from pmal_tf.runtime.files import MARKER, read_json, write_json, write_text

SETTINGS = {
    "method": "pmal",
    "compare": ["softmax", "control"],
    "scores": ["dr", "msp", "mls"],
    "dataset": "cifar10",
    "protocol": "neal",
    "tuning_held_out": False,
    "backbone": "oscri",
    "seed": 0,
    "width": 0.25,
    "epochs": 5,
    "batch_size": 64,
    "train_images_per_class": 2000,
    **BASE,
    "mining_repeats": 0,
    "reject_rate": 0.05,
}
TITLES = {
    "pmal": "PMAL",
    "softmax": "softmax (M^1)",
    "control": "control (M^1 trained on)",
    "arpl": "ARPL",
}


def model(acc=0.8, dr=0.7, pr=0.72, mls=0.75):
    """Returns the metrics of a model, all OSCR a tenth below AUROC.

    A score that is None is one that the model does not have.
    """
    scores = {
        name: {"auroc": auroc, "oscr": auroc - 0.1, "fpr95": 0.9}
        for name, auroc in (("dr", dr), ("pr", pr), ("mls", mls))
        if auroc is not None
    }
    return {"acc": acc, "macro_f1": acc, **scores}


def file_of(name):
    """Returns the name of a model's score file."""
    return "scores.npz" if name == "pmal" else f"scores_{name}.npz"


def make_trial(
    experiment,
    trial,
    *,
    models=None,
    baseline="control",
    folder=None,
    known=None,
    versions=None,
    result=None,
    **changes,
):
    """Writes a finished trial's records, and returns its folder.

    `changes` are settings; `folder` is another name than that of the trial; `result`
    replaces entries of its `result.json`.
    """
    inputs = {**SETTINGS, **changes, "trial": trial, "experiment": experiment.name}
    path = experiment / (folder or f"trial_{trial}")
    models = models or {"pmal": model(), "softmax": model(0.7), "control": model(0.8)}
    repeated = ("experiment", "dataset", "backbone", "protocol", "seed", "epochs")
    record = {
        **{name: inputs[name] for name in (*repeated, "trial", "method")},
        "known": known or [f"class {trial}", "cat"],
        "unknown": ["dog"],
        "unknown_is_estimate": False,
        "baseline": baseline,
        "titles": {name: TITLES[name] for name in models},
        "files": {name: file_of(name) for name in models},
        "models": models,
    }
    write_json(path / "result.json", {**record, **(result or {})})
    # As the user gave them.
    asked = {"compare": ["auto"], "scores": []}
    write_json(path / "config.json", {**inputs, **asked})
    environment = {
        "pmal_tf": "0.1.0",
        "python": "3.11.7",
        "packages": {"tensorflow": "2.21.0", **(versions or {})},
        "platform": "Linux",
        "machine": "x86_64",
        "cpu_count": 2,
        "hardware": "2 cores, Some CPU; no GPU",
        "devices": ["/physical_device:CPU:0"],
        "seed": inputs["seed"],
        "git_commit": "abcdef",
    }
    write_json(path / "environment.json", environment)
    write_text(path / "flags.txt", f"--experiment={experiment.name}\n")
    write_marker(path, "mining", seconds=10.0)
    write_marker(path, "optimize", "mining", seconds=60.0)
    # Evaluation reads images and versions too: no two trials are alike.
    read = {**inputs, "test": f"sha of trial {trial}", "version of keras": "3.15"}
    write_marker(path, "evaluate", "optimize", inputs=read, seconds=6.0)
    return path


def write_marker(path, stage, *upstream, inputs=None, made="as ever", seconds=1.0):
    """Writes the marker of a finished stage.

    `upstream` are stages that it reads from; `made` stands for what it made.
    """
    marker = {
        "inputs": inputs or {},
        "upstream": {n: read_json(path / n / MARKER)["hash"] for n in upstream},
        "outputs": {},
        "seconds": seconds,
        "facts": {},
        "key": f"key of {stage}",
        "hash": f"{stage}: {made}",
    }
    write_json(path / stage / MARKER, marker)


def edit(path, *left_out, **changes):
    """Changes entries of a JSON file, or takes them out."""
    content = {**read_json(path), **changes}
    write_json(path, {n: v for n, v in content.items() if n not in left_out})
