import pytest

from pmal_tf.results.figures import style


@pytest.fixture
def any_layout(monkeypatch):
    """Spares seconds of t-SNE where the layout does not matter."""
    monkeypatch.setattr(style, "flatten", lambda points: points[:, :2])
