"""Stages that train nothing, so that what is around them can be tested in a moment."""

import dataclasses
import itertools
from contextlib import contextmanager

import numpy as np
import pytest

from pmal_tf.methods.method import Method
from pmal_tf.methods.registry import all_methods
from pmal_tf.methods.scorer import Scorer
from pmal_tf.results.scores.registry import get_score
from pmal_tf.runtime.files import checksum, write_json, write_text
from pmal_tf.serving.exported import METADATA
from pmal_tf.workflow import experiment
from pmal_tf.workflow.config import EVALUATE, EXPORT
from pmal_tf.workflow.stages import export

# As many as the smallest task has.
CLASSES = 4
_count = itertools.count()


class QuickScorer(Scorer):
    """Answers by a fixed projection of the pixels."""

    def __init__(self, *_):
        self.kernel = np.random.default_rng(0).normal(size=(192, CLASSES))

    def outputs(self, images, batch_size=256):
        embedding = np.asarray(images[:], np.float32).reshape(len(images), -1)
        logits = embedding @ self.kernel / 1000
        distance = 1 - np.tanh(logits)
        return {"embedding": embedding, "logits": logits, "distance": distance}


def _write_something(work):
    """As of training, what comes out is another file each time."""
    write_text(work.new_path(f"{work.stage}/model.keras"), f"made {next(_count)}")
    return {}


def _export(scorer, folder, *, threshold, rule, metadata, **_):
    write_text(folder / "saved_model.pb", f"made {next(_count)}")
    facts = {**metadata, "threshold": threshold, "rule": rule}
    write_json(folder / METADATA, {**facts, "sha256": checksum(folder)})


@contextmanager
def quick_stages(*, trains=False):
    """Makes evaluation and export quick, and unless it `trains` every other stage."""
    plan = experiment.plan

    def quick_plan(config, trial):
        return [
            stage
            if stage.kind in (EVALUATE, EXPORT)
            else dataclasses.replace(stage, run=_write_something)
            for stage in plan(config, trial)
        ]

    with pytest.MonkeyPatch.context() as patch:
        for kind in {Method, *map(type, all_methods().values())}:
            patch.setattr(kind, "load", QuickScorer)
        patch.setattr(export, "rejection_score", lambda scorer, rule: get_score(rule))
        patch.setattr(export, "export_saved_model", _export)
        if not trains:
            patch.setattr(experiment, "plan", quick_plan)
        yield
