"""Data flows one way: which part of the package may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pmal_tf"

# Part -> the parts it may import besides itself. A part is a folder or a lone module.
ALLOWED = {
    "__init__": {
        *("api", "errors", "evaluation", "mining", "serving", "training", "version")
    },
    "api": {
        *("backbones", "data", "errors", "inference", "mining", "seeds", "training"),
        "types",
    },
    "backbones": {"errors"},
    "benchmark": {
        *("backbones", "config", "data", "errors", "mining", "quiet", "reports"),
        *("precision", "serving", "training", "workdir"),
    },
    "config": {"errors", "flagfiles", "settings"},
    "cluster": {"errors"},
    "command": {"config", "errors", "interruption", "quiet"},
    "data": {"errors", "quiet"},
    "demo": {"errors", "quiet", "serving"},
    "distances": set(),
    "distribution": {"cluster", "errors"},
    "environment": {"version"},
    "errors": set(),
    "evaluation": {"data", "errors"},
    "experiment": {
        *("config", "data", "distribution", "errors", "precision", "reports"),
        *("runner", "stages", "trial", "workdir"),
    },
    "flagfiles": {"errors"},
    "inference": {"distribution", "types"},
    "interruption": set(),
    "losses": set(),
    "mining": {"distances", "errors", "types"},
    "precision": {"errors"},
    "predict": {"errors", "quiet", "serving"},
    "quiet": set(),
    "report": {"errors", "reports"},
    "reports": {"data", "errors", "evaluation", "types", "workdir"},
    "run": {"command", "config", "experiment"},
    "runner": {
        *("config", "distribution", "environment", "errors", "shared_stages"),
        *("training", "trial", "workdir"),
    },
    "seeds": set(),
    "serving": {
        *("data", "distances", "environment", "errors", "evaluation", "mining"),
        *("quiet", "training", "types", "workdir"),
    },
    "settings": {"errors"},
    "shared_files": {"workdir"},
    "shared_stages": {"shared_files", "training", "trial", "workdir"},
    "stages": {
        *("api", "backbones", "config", "data", "distribution", "errors"),
        *("evaluation", "mining", "reports", "serving", "shared_files", "training"),
        *("trial", "workdir"),
    },
    "training": {
        *("data", "distances", "distribution", "errors", "inference"),
        *("interruption", "losses", "mining", "seeds", "types", "version", "workdir"),
    },
    "trial": {
        *("config", "data", "distribution", "environment", "errors", "mining", "seeds"),
        *("shared_files", "training", "workdir"),
    },
    "tune": {"command", "config", "errors", "tuning"},
    "tuning": {
        *("config", "environment", "errors", "evaluation", "experiment", "reports"),
        *("settings", "trial", "workdir"),
    },
    "types": set(),
    "version": set(),
    "workdir": {"errors"},
}


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [node.module]
            if node.module == "pmal_tf":
                modules = [f"pmal_tf.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            modules = [name.name for name in node.names]
        else:
            continue
        for module in modules:
            if module.startswith("pmal_tf."):
                yield module.split(".")[1]


def test_imports_follow_the_arrows():
    files = sorted(PACKAGE.rglob("*.py"))
    assert {part_of(path) for path in files} == set(ALLOWED)
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {part}"
        for path in files
        for part in imported_parts(path)
        if part != part_of(path) and part not in ALLOWED[part_of(path)]
    ]
    assert not wrong


def test_arrows_make_no_circle():
    def reach(part, trail):
        assert part not in trail, f"circle: {' -> '.join([*trail, part])}"
        for following in ALLOWED[part]:
            reach(following, [*trail, part])

    for part in ALLOWED:
        reach(part, [])


def test_flags_are_read_in_config_alone():
    readers = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "FLAGS" in path.read_text().replace("parse absl's `FLAGS`", "")
    ]
    # Small commands beside the run have flags of their own.
    commands = {"benchmark/__main__.py", "data/prepare.py", "data/splits.py"}
    commands |= {"reports/overview.py", "demo.py", "report.py", "tune.py"}
    assert set(readers) == {"config.py"} | commands


@pytest.mark.parametrize(
    "code",
    [
        "import pmal_tf, pmal_tf.run, pmal_tf.data.splits, pmal_tf.data.prepare",
        "from pmal_tf.config import Config; Config()",
    ],
)
def test_the_command_line_does_not_wait_for_tensorflow(code):
    check = "; import sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code + check]).returncode == 0


def test_unknown_names_of_the_package_are_attribute_errors():
    import pmal_tf

    assert set(pmal_tf.__all__) == {*pmal_tf._HOME, "__version__"}
    assert pmal_tf.Recipe().epochs == 600
    with pytest.raises(AttributeError, match="no attribute 'Classifer'"):
        pmal_tf.Classifer  # noqa: B018
