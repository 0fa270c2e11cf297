import time
from types import SimpleNamespace

import numpy as np
import pytest

from pmal_tf.benchmark import serving
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.runtime.errors import PmalError


def signature(seconds):
    """Answers a batch in a while; one image takes as long as 32."""

    def answer(images):
        time.sleep(seconds)
        return {"answer": SimpleNamespace(numpy=lambda: np.zeros(len(images)))}

    return answer


def test_the_exported_model_is_measured_beside_the_bare_backbone(monkeypatch):
    bare = {"serving_default": signature(0.002)}
    ours = {"serving_images": signature(0.006), "serving_images_xla": signature(0.004)}
    models = tuple(SimpleNamespace(signatures=each) for each in (ours, bare))
    monkeypatch.setattr(serving, "_exported", lambda *_: models)
    monkeypatch.setattr(serving, "_WARM_UP_CALLS", 1)
    settings = BenchmarkSettings(repetitions=5, image_size=8)
    text, measurements = serving.run(settings)
    found = {each.name: each for each in measurements}
    names = ["latency_ratio_32", "latency_extra_ms_1", "latency_xla_ratio_32"]
    assert list(found) == names
    assert found["latency_ratio_32"].value > found["latency_xla_ratio_32"].value > 1.2
    extra = found["latency_extra_ms_1"]
    assert extra.unit == "ms"
    assert extra.value == extra.ours - extra.reference > 2
    assert "oscri at width 1, 8 pixels, 6 classes with 10 prototypes" in text
    assert "(n = 5, " in text


def test_one_network_is_served():
    with pytest.raises(PmalError, match="Received: --backbones=oscri,wrn_40_4"):
        serving.run(BenchmarkSettings(backbones=("oscri", "wrn_40_4")))
