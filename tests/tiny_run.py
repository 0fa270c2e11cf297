"""A whole experiment, as small as it can be."""

import dataclasses

from pmal_tf.config import Config

STAGES = {
    *("pretrain_0", "pretrain_1", "mining", "optimize", "control", "evaluate"),
    "export",
}


STAGES_WITHOUT_CONTROL = ("pretrain", "mine", "optimize", "evaluate", "export")


def tiny(folder, **changes):
    return dataclasses.replace(
        Config(
            experiment="tiny",
            protocol="neal",
            workdir=str(folder / "runs"),
            export_dir=str(folder / "saved_models"),
            control=True,
            width=0.15,
            dropout=0.0,
            epochs=3,
            batch_size=16,
            learning_rate=0.003,
            schedule="cosine",
            prototypes_per_class=3,
        ),
        **changes,
    )


def trial_folder(folder):
    return folder / "runs" / "tiny" / "trial_0"
