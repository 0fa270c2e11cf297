"""What a long computation says of itself."""

import io

from pmal_tf.mining import progress


def test_progress_is_said_in_the_log_now_and_then(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.logging, "info", lambda *words: said.append(words))
    with progress.Progress("Robustness", total=10, done=2) as bar:
        for _ in range(4):
            now[0] += 20.0
            bar.advance(2)
    # 2 of 10 were done before; 4 in 40 s leave 4, so 40 s; then all.
    assert [form % tuple(values) for form, *values in said] == [
        "Robustness: 60 % done, 40 s left",
        "Robustness: 100 % done, 0 s left",
    ]


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", 0.0)
    with progress.Progress("Robustness", total=4) as bar:
        bar.advance(1)
        bar.advance(3)
    assert "Robustness: 100 %" in terminal.getvalue()
    assert "left" in terminal.getvalue()
