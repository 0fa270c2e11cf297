"""Data flows one way: which part of the package may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pmal_tf"

# Every room may import those of lower floors, and rooms inside it, never upward.
FLOORS = (
    ("runtime",),
    ("data", "backbones"),
    ("mining", "training"),
    ("results",),
    ("methods",),
    ("serving",),
    ("workflow",),
    ("benchmark",),
    ("estimator",),
)
# At the root: what `python -m` runs, and the package itself.
ENTRIES = ("__init__", "cache", "demo", "predict", "report", "run", "tune")
# Names that belong to one method; the paper's own tables speak of them.
METHOD_NAMES = {"pmal", "softmax", "control", "pretrain_0", "optimize"}
METHOD_NAMES |= {"ensemble", "softmax_long"}
MAY_NAME_METHODS = (
    *("methods/", "benchmark/", "results/collect/paper"),
    "results/collect/ablation_tables.py",
)


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


FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def test_no_import_runs_upward():
    files = sorted(PACKAGE.rglob("*.py"))
    assert {part_of(path) for path in files} == {*FLOOR_OF, *ENTRIES}
    wrong = []
    for path in files:
        part = part_of(path)
        for other in imported_parts(path):
            # Entry points stand above all rooms, and nobody imports them.
            if other != part and (
                other in ENTRIES
                or (part in FLOOR_OF and FLOOR_OF[other] >= FLOOR_OF[part])
            ):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert not wrong


def test_modules_make_no_circle():
    """Imports inside functions do not count: they are there for speed."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(("pmal_tf", *path.relative_to(PACKAGE).with_suffix("").parts))
        imported = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module.startswith("pmal_tf"):
                imported |= {node.module}
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        graph[name.removesuffix(".__init__")] = imported
    done = set()

    def visit(name, trail):
        assert name not in trail, f"circle: {' -> '.join([*trail, name])}"
        if name in graph and name not in done:
            for following in sorted(graph[name] & graph.keys()):
                # A package that finds its own modules imports no one of them.
                if not name.startswith(f"{following}."):
                    visit(following, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_only_methods_and_the_papers_tables_name_methods():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE).as_posix()
        if relative.startswith(MAY_NAME_METHODS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in METHOD_NAMES:
                wrong.append(f"{relative}:{node.lineno}: {node.value}")
    assert not wrong


def test_only_one_function_writes_npz_files():
    """NumPy 2.0 takes an option of later versions for one more array."""
    callers = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if ".savez" in path.read_text()
    ]
    assert callers == ["runtime/files.py"]


def test_flags_are_read_in_one_place():
    readers = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "FLAGS" in path.read_text().replace("parse absl's `FLAGS`", "")
    ]
    # Small commands beside the run have flags of their own.
    commands = {"benchmark/__main__.py", "data/prepare.py", "data/splits.py"}
    commands |= {"demo.py", "report.py", "tune.py"}
    assert set(readers) == {"workflow/flags.py", "cache.py"} | commands


@pytest.mark.parametrize(
    "code",
    [
        "import pmal_tf, pmal_tf.run, pmal_tf.data.splits, pmal_tf.data.prepare",
        "import pmal_tf.cache, pmal_tf.report, pmal_tf.serving.exported",
        "from pmal_tf.workflow.flags import define_flags, short_help; define_flags()",
        "from pmal_tf.workflow.config import Config; Config(method='arpl')",
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
