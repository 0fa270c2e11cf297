"""A whole experiment, as small as it can be."""

from pmal_tf.workflow.config import Config

# The folder of each stage that says it is done.
STAGES = {
    *("pretrain_0", "pretrain_1", "embedding_0", "embedding_1", "robustness"),
    *("mining", "optimize", "control", "evaluate", "export"),
}
STAGES_WITHOUT_CONTROL = ("pretrain", "mine", "optimize", "evaluate", "export")


def tiny(folder, **changes):
    values = {
        "experiment": "tiny",
        "protocol": "neal",
        "workdir": str(folder / "runs"),
        "export_dir": str(folder / "saved_models"),
        "compare": ("softmax", "control"),
        "width": 0.15,
        "dropout": 0.0,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.003,
        "schedule": "cosine",
    }
    if "method" not in changes:
        values["prototypes_per_class"] = 3
    return Config(**{**values, **changes})


def trial_folder(folder):
    return folder / "runs" / "tiny" / "trial_0"
