"""Mining that is repeated with other classifiers, for a look at how prototypes vary."""

import numpy as np
import pytest
from tiny_run import tiny

from pmal_tf.workflow.experiment import run_experiment

STAGES = ("pretrain", "mine")


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeats")
    few = {"epochs": 1, "train_images_per_class": 40, "tensorboard": False}
    once = tiny(folder, compare=("softmax",), stages=STAGES, **few)
    again = once.changed(experiment="again", mining_repeats=2)
    with pytest.MonkeyPatch.context() as patch:
        # Mining asks for no more than classifiers as they were drawn.
        fit = "pmal_tf.methods.classifier_stage.fit_classifier"
        patch.setattr(fit, lambda *_, **__: None)
        for config in (once, again):
            run_experiment(config)
    return [c.run_folder / "trial_0" / "mining" for c in (once, again)]


def chosen(folder):
    with np.load(folder / "prototypes.npz") as prototypes:
        return prototypes["example_id"].tolist(), prototypes["class_index"].tolist()


def test_repetition_leaves_the_prototypes_as_they_are(mined):
    once, again = mined
    assert chosen(again) == chosen(once)


def test_each_repetition_chooses_with_classifiers_of_its_own(mined):
    _, again = mined
    selections = [again, again / "repeat_1", again / "repeat_2"]
    ids = [set(chosen(folder)[0]) for folder in selections]
    assert all(one != two for i, one in enumerate(ids) for two in ids[:i])
    with np.load(again / "robustness.npz") as everything:
        known = dict(
            zip(everything["example_id"], everything["class_index"], strict=True)
        )
    for folder in selections:
        for name, label in zip(*chosen(folder), strict=True):
            assert known[name] == label
    embeddings = {path.name for path in again.glob("embedding_*.npy")}
    assert embeddings == {
        *("embedding_0.npy", "embedding_1.npy"),
        *(f"embedding_repeat_{r}_{u}.npy" for r in (1, 2) for u in (0, 1)),
    }
