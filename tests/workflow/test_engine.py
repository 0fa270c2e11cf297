"""Stages that take milliseconds: made once, taken, remade, waited for, never mixed."""

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from filelock import FileLock

from pmal_tf.cache import describe
from pmal_tf.runtime import distribution
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_text
from pmal_tf.runtime.stage import Stage
from pmal_tf.workflow import store as store_module
from pmal_tf.workflow.engine import Workflow, merged
from pmal_tf.workflow.store import Store


@pytest.fixture
def made():
    """Names of the stages that did their work, in order."""
    return []


@pytest.fixture
def workflow(tmp_path, made):
    """Three stages in a row: each writes what it read and a number of its own."""

    def build(trial="trial", *, renew=(), store=None, versions=None, data="d", **given):
        values = {"one": 1, "two": 2, "three": 3, **given}

        def stage(name, kind, *needs, inputs=()):
            def run(work):
                made.append(name)
                read = [work.path_of(f"{n}/text.txt").read_text() for n in needs]
                text = " ".join([*read, str(values[name])])
                write_text(work.new_path(f"{name}/text.txt"), text)
                with (work.shown / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"stage": name, "epoch": 1}) + "\n")
                curves = work.shown / "tensorboard" / name / "events"
                write_text(curves, text)
                return {"value": values[name]}

            return Stage(
                name, kind, run, needs, {name: values[name]}, inputs, shows=(name,)
            )

        stages = [
            stage("one", "a", inputs=("data",)),
            stage("two", "b", "one"),
            stage("three", "c", "two"),
        ]
        return Workflow(
            stages,
            Store(store or tmp_path / "store"),
            tmp_path / trial,
            fingerprint=lambda _: data,
            versions=versions or {"library": "1"},
            renew=renew,
        )

    (tmp_path / "trial").mkdir()
    (tmp_path / "other").mkdir()
    return build


ALL = ("a", "b", "c")


def text_of(folder, name="three"):
    return (folder / name / "text.txt").read_text()


def instead(chain, name, run):
    """Gives a stage another thing to do."""
    object.__setattr__(chain.stages[name], "run", run)
    return chain


def test_a_second_start_makes_nothing(workflow, made, tmp_path):
    workflow().run(ALL)
    assert made == ["one", "two", "three"]
    assert text_of(tmp_path / "trial") == "1 2 3"
    workflow().run(ALL)
    assert made == ["one", "two", "three"]


def test_another_trial_folder_takes_what_there_is_with_its_records(
    workflow, made, tmp_path
):
    workflow().run(ALL)
    workflow("other").run(ALL)
    assert len(made) == 3
    other = tmp_path / "other"
    assert text_of(other) == "1 2 3"
    lines = (other / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["stage"] for x in lines] == ["one", "two", "three"]
    assert (other / "tensorboard" / "two" / "events").read_text() == "1 2"
    # One file, whose content nobody changes by accident.
    path = other / "one" / "text.txt"
    assert os.path.samefile(path, tmp_path / "trial" / "one" / "text.txt")
    assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_a_changed_setting_remakes_what_depends_on_it_and_says_so(
    workflow, made, tmp_path, caplog
):
    workflow().run(ALL)
    made.clear()
    with caplog.at_level("INFO", logger="absl"):
        workflow(two=5).run(ALL)
    assert made == ["two", "three"]
    assert text_of(tmp_path / "trial") == "1 5 3"
    assert "two: made anew, since two: 2 -> 5" in caplog.text
    assert "three: made anew, since two is another" in caplog.text
    made.clear()
    workflow().run(ALL)  # And back: nothing was lost.
    assert made == []
    assert text_of(tmp_path / "trial") == "1 2 3"


def test_other_data_or_versions_are_other_results(workflow, made):
    workflow().run(ALL)
    made.clear()
    workflow(data="other").run(("a",))
    workflow(versions={"library": "2"}).run(("a",))
    assert made == ["one", "one"]


def test_the_same_result_from_other_settings_stops_the_remaking(workflow, made):
    # What is needed counts, not how it came about.
    first = workflow()
    first.stages["one"].reads["unrelated"] = 1
    first.run(ALL)
    made.clear()
    workflow().run(ALL)
    assert made == ["one"]


def test_a_stage_without_the_ones_before_it_is_refused(workflow):
    with pytest.raises(PmalError, match=r"one of .* is not\. Run the same command"):
        workflow().run(("b",))


def test_a_file_is_needed_from_a_stage_that_is_named(workflow, tmp_path):
    chain = workflow()
    chain.run(ALL)
    works = []
    instead(chain, "three", works.append)
    chain._compute(chain.stages["three"], "key")
    assert works[0].path_of("two/text.txt").exists()
    with pytest.raises(FileNotFoundError, match=r"one/text\.txt of two"):
        works[0].path_of("one/text.txt")


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "one" / "text.txt").unlink(),
        lambda entry: (entry / "one" / "done.json").unlink(),
        lambda entry: _overwrite(entry / "one" / "text.txt", "spoilt"),
        lambda entry: _overwrite(entry / "one" / "done.json", '{"key": 1'),
        lambda entry: _overwrite(entry / "one" / "done.json", "[]"),
    ],
)
def test_a_damaged_result_is_made_anew(workflow, made, tmp_path, damage):
    workflow().run(ALL)
    (entry,) = (tmp_path / "store").glob("one-*")
    damage(entry)
    made.clear()
    workflow("other").run(ALL)
    assert made == ["one"]
    assert text_of(tmp_path / "other") == "1 2 3"


def _overwrite(path, text):
    path.chmod(0o644)
    path.write_text(text)


@pytest.mark.parametrize("lost", ["text.txt", "done.json"])
def test_a_file_that_is_lost_from_a_trial_comes_back(workflow, made, tmp_path, lost):
    workflow().run(ALL)
    path = tmp_path / "trial" / "two" / lost
    before = path.read_text()
    path.unlink()
    if lost == "text.txt":
        path.write_text("something else")
    made.clear()
    workflow().run(ALL)
    assert made == []
    assert path.read_text() == before


def test_a_lost_store_is_filled_from_the_trial(workflow, made, tmp_path):
    workflow().run(ALL)
    for entry in (tmp_path / "store").glob("*-*"):
        store_module._remove(entry)
    made.clear()
    workflow().run(ALL)
    assert made == []
    assert len(list((tmp_path / "store").glob("*-*"))) == 3


def test_a_lost_store_is_filled_before_other_hosts_look(
    workflow, made, tmp_path, monkeypatch
):
    """Two hosts as two threads, of which one may not write."""
    workflow().run(ALL)
    for entry in (tmp_path / "store").glob("*-*"):
        store_module._remove(entry)
    made.clear()
    chief, answers, turn = threading.current_thread(), {}, threading.Barrier(2)

    def is_chief():
        return threading.current_thread() is chief

    def any_host(values):
        turn.wait(10)
        answers[is_chief()] = values
        turn.wait(10)
        return [any(pair) for pair in zip(*answers.values(), strict=True)]

    monkeypatch.setattr(distribution, "several_hosts", lambda: True)
    monkeypatch.setattr(distribution, "is_chief", is_chief)
    monkeypatch.setattr(distribution, "any_host", any_host)
    other = workflow()
    host = threading.Thread(target=other.run, args=(("c",),))
    host.start()
    workflow().run(("c",))
    host.join()
    assert not made
    assert set(other._results) == {"one", "two", "three"}


def test_renewing_makes_anew_and_a_failure_loses_nothing(workflow, made, tmp_path):
    workflow().run(ALL)
    made.clear()
    workflow(renew=("b",)).run(("b",))
    assert made == ["two"]

    def fail(_work):
        raise OSError(errno.ENOSPC, "no space left")

    failing = instead(workflow(renew=("b",)), "two", fail)
    with pytest.raises(OSError, match="no space left"):
        failing.run(("b",))
    made.clear()
    workflow().run(ALL)
    assert made == []
    assert text_of(tmp_path / "trial", "two") == "1 2"


@pytest.mark.parametrize("renew", [(), ("a",)])
def test_a_killed_stage_finds_what_it_left(workflow, tmp_path, renew):
    if renew:
        workflow().run(("a",))
    left = []

    def half(work):
        path = work.new_path("one/step_1.npz")
        left.append(path.exists())
        path.write_text("half")
        if len(left) == 1:
            raise KeyboardInterrupt
        write_text(work.new_path("one/text.txt"), "anew")
        return {}

    for ending in (pytest.raises(KeyboardInterrupt), contextlib.nullcontext()):
        chain = instead(workflow(renew=renew), "one", half)
        with ending:
            chain.run(("a",))
        if renew and len(left) == 1:  # The finished result stands in the meantime.
            assert text_of(tmp_path / "trial", "one") == "1"
    assert left == [False, True]
    assert text_of(tmp_path / "trial", "one") == "anew"
    (entry,) = (tmp_path / "store").glob("one-*")
    # What only helped is not part of the result.
    assert {p.name for p in (entry / "one").iterdir()} == {"done.json", "text.txt"}


def test_a_kill_just_before_a_result_is_whole_loses_nothing(
    workflow, made, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    for name in ("_remove", "Path.chmod"):
        with monkeypatch.context() as patched:
            patched.setattr(f"pmal_tf.workflow.store.{name}", kill)
            with pytest.raises(Killed):
                workflow().run(("a",))
    workflow().run(ALL)
    made.clear()
    workflow("other").run(ALL)
    assert made == []


def run_together(chains):
    threads = [threading.Thread(target=chain.run, args=(ALL,)) for chain in chains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_that_want_the_same_make_it_once(workflow, made, tmp_path):
    def slowly(chain):
        run = chain.stages["one"].run

        def slow(work):
            time.sleep(0.3)
            return run(work)

        return instead(chain, "one", slow)

    run_together([slowly(workflow("trial")), slowly(workflow("other"))])
    assert sorted(made) == ["one", "three", "two"]
    assert text_of(tmp_path / "trial") == text_of(tmp_path / "other") == "1 2 3"


def test_two_of_one_trial_leave_its_folder_whole(workflow, made, tmp_path):
    chains = [workflow() for _ in range(6)]
    run_together(chains)
    assert sorted(made) == ["one", "three", "two"]
    assert all(set(chain._results) == {"one", "two", "three"} for chain in chains)
    lines = (tmp_path / "trial" / "metrics.jsonl").read_text().splitlines()
    assert sorted(json.loads(x)["stage"] for x in lines) == sorted(made)
    assert not list((tmp_path / "trial").rglob("linking.*"))


def test_a_lock_dies_with_its_owner(workflow, made, tmp_path):
    key = workflow()._key(workflow().stages["one"])
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from pmal_tf.workflow.store import Store
        with Store(Path({str(tmp_path / "store")!r})).claimed("one", {key!r}):
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "store" / "locks" / f"one-{key}.lock").exists()
    workflow().run(("a",))
    assert made == ["one"]


def test_without_hard_links_files_are_copied_and_that_is_said_once(
    workflow, made, tmp_path, monkeypatch, caplog
):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(store_module.os, "link", refuse)
    workflow().run(ALL)
    workflow("other").run(ALL)
    assert made == ["one", "two", "three"]
    assert text_of(tmp_path / "other") == "1 2 3"
    assert caplog.text.count("are copied instead") == 1


def test_what_nothing_shows_can_be_cleared(workflow, tmp_path):
    store = tmp_path / "store"
    with pytest.raises(PmalError, match="`store_dir` must be the folder of finished"):
        describe(tmp_path, store, clear=True)
    workflow("trial_0").run(ALL)
    workflow("trial_0", two=5).run(ALL)
    text = describe(tmp_path, store, clear=False)
    assert "3 results used, " in text
    assert "2 results not used, " in text
    assert text.endswith("--clear removes what is not used.\n")
    lines = [line.split() for line in text.splitlines() if " MiB  " in line]
    free = [name for *_, what, name in lines if what == "free"]
    assert [name.partition("-")[0] for name in free] == ["three", "two"]
    # One that somebody is making stays.
    busy = next(name for name in free if name.startswith("two"))
    with FileLock(store / "locks" / f"{busy}.lock"):
        assert "Removed 1 results" in describe(tmp_path, store, clear=True)
    assert {path.name for path in store.glob("*-*")} & set(free) == {busy}
    assert text_of(tmp_path / "trial_0") == "1 5 3"
    # A damaged marker shows nothing.
    _overwrite(tmp_path / "trial_0" / "one" / "done.json", "[")
    assert "2 results used, " in describe(tmp_path, store, clear=False)


def test_stages_of_one_name_are_one_stage():
    def stage(value):
        return Stage("one", "a", lambda _: {}, (), {"setting": value})

    assert len(merged([stage(1), stage(1)])) == 1
    with pytest.raises(ValueError, match="different things by one"):
        merged([stage(1), stage(2)])
