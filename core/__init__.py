"""vertebra: images to multi-scale feature maps with any backbone.

The public names stand in `__init__.pyi`, which type checkers read; at run time a name's module is imported when the
name is first used, so `import vertebra` costs nothing.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any


def _read_table() -> dict[str, str]:
    """Public name -> module, read from the import statements of `__init__.pyi`."""
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module for node in imports for alias in node.names if node.module}


_MODULES = _read_table()
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vertebra")
    if name not in _MODULES:
        from vertebra.errors import did_you_mean

        raise AttributeError(f"module 'vertebra' has no attribute {name!r}.{did_you_mean(name, _MODULES)}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
