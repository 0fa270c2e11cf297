"""What a long computation says of itself."""

import io
import re

import tqdm.std

from pmal_tf.mining import progress
from pmal_tf.mining.progress import progress_bar


def test_progress_is_said_in_the_log_now_and_then(monkeypatch):
    now, said = [1000.0], []
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    monkeypatch.setattr(progress.logging, "info", lambda _, text: said.append(text))
    with progress_bar("Robustness", total=10, done=2) as bar:
        for _ in range(4):
            now[0] += 20.0
            bar.update(2)
    # 2 of 10 were done before; 4 in 40 s leave 4, so 40 s; then all.
    assert said[0] == "Robustness:  60 % done, 00:40 left"
    assert said[-1] == "Robustness: 100 % done, 00:00 left"
    assert len(said) <= 3


def test_a_short_computation_says_nothing(monkeypatch):
    said = []
    monkeypatch.setattr(progress.logging, "info", lambda _, text: said.append(text))
    with progress_bar("Robustness", total=1) as bar:
        bar.update(1)
    assert said == []


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", 0.0)
    with progress_bar("Robustness", total=4) as bar:
        bar.update(1)
        bar.update(3)
    assert re.search(r"Robustness: 100 %\|.{30}\| 00:00 left", terminal.getvalue())
