"""A fresh process that loads a model knows every class that it may be made of."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pmal_tf"


def test_loading_imports_every_module_that_registers_a_class_with_keras():
    loading = ast.parse((PACKAGE / "methods" / "loading.py").read_text())
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(loading)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    registering = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if "@keras.saving.register_keras_serializable" in path.read_text()
    }
    assert len(registering) >= 5
    assert registering <= imported
