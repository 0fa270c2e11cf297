from types import SimpleNamespace

import numpy as np
import pytest

from pmal_tf.benchmark import measurement, serving
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.runtime.errors import PmalError


def test_the_exported_model_is_measured_beside_the_bare_backbone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: now[0])

    def signature(seconds):
        """Answers a batch in a while; one image takes half as long as 32."""

        def answer(images):
            now[0] += seconds if len(images) == 32 else seconds / 2
            return {"answer": SimpleNamespace(numpy=lambda: np.zeros(len(images)))}

        return answer

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
    assert found["latency_ratio_32"].value == pytest.approx(3.0)
    assert found["latency_xla_ratio_32"].value == pytest.approx(2.0)
    extra = found["latency_extra_ms_1"]
    assert (extra.unit, extra.sides) == ("ms", "ms")
    assert [extra.value, extra.ours, extra.reference] == pytest.approx([2, 3, 1])
    assert "oscri at width 1, 8 pixels, 6 classes with 10 prototypes" in text
    assert "Under XLA one image takes 2 ms." in text
    assert "(n = 5, " in text


def test_one_network_is_served():
    with pytest.raises(PmalError, match="Received: --backbones=oscri,wrn_40_4"):
        serving.run(BenchmarkSettings(backbones=("oscri", "wrn_40_4")))
