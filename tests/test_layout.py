"""The tree is the package: which folder may import which, what the wheel holds, what the public names are."""

import ast
import importlib
import inspect
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import vertebra

ROOT = Path(__file__).parents[1]
CORE = "core"

MAY_IMPORT = {
    CORE: set(),
    "backbones": {CORE},
    "backbones/necks": {CORE, "backbones", "auto"},
    "backbones/bridges": {CORE, "backbones", "auto"},
    "image_processing": {CORE},
    "text": {CORE},
    "audio": {CORE},
    "auto": {CORE},
    "heads": {CORE, "auto", "backbones"},
    "inspection": {CORE, "auto", "backbones", "image_processing"},
    "optimization": {CORE},
    "pipelines": {CORE, "backbones", "image_processing", "audio"},
    "extraction": {CORE, "auto", "backbones", "image_processing"},
    "cli": {CORE, "auto", "backbones", "image_processing", "inspection", "extraction"},
}
"""What each folder knows besides itself. `auto` finds the others by the strings of its table; necks and bridges compose backbones,
so that they know `auto`'s builders, as heads do."""
LAZY = {"auto": {"backbones", "image_processing", "text", "audio", "pipelines"}, CORE: {"optimization"}}
"""What a folder may import inside a function only."""
CONTRACT = {"vertebra.backbones.base", "vertebra.backbones.config"}
"""All that heads, inspection and extraction may know of the backbones: no family."""
SHARED_LAYERS = {"vertebra.backbones.layers"}
"""What heads may use beside: activations, cached tables."""

FOLDERS = [name for name in MAY_IMPORT if "/" not in name and any((ROOT / name).glob("*.py"))]
FILES = [path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each module that a file imports, and whether that happens when the file itself is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, _at_import(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            for alias in node.names if node.module == "vertebra" else ():
                yield f"vertebra.{alias.name}", id(node) in top
            if node.module and node.module != "vertebra":
                yield node.module, id(node) in top


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from _at_import(child)


def folder_of(module: str) -> str:
    """The top-level folder that holds a module of vertebra."""
    part = [*module.split("."), ""][1]
    return part if part in MAY_IMPORT and part != CORE else CORE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_arrows_point_one_way(path: Path) -> None:
    here = next(name for name in sorted(MAY_IMPORT, reverse=True) if path.relative_to(ROOT).is_relative_to(name))
    for module, at_import in imports(path):
        if module.partition(".")[0] != "vertebra":
            continue
        there = folder_of(module)
        allowed = MAY_IMPORT[here] | {here.partition("/")[0]} | (LAZY.get(here, set()) if not at_import else set())
        if here == "cli" and there == CORE:
            continue
        public = module.removeprefix("vertebra.") in vertebra.__all__
        assert not (public and here != "cli"), f"{path} imports the public {module}; import it from its own module"
        assert there in allowed, f"{path} imports {module}; {here} may import {sorted(allowed)}"
        if there == "backbones" and here in ("heads", "inspection", "extraction"):
            known = CONTRACT | SHARED_LAYERS if here == "heads" else CONTRACT
            assert module in known, f"{path} imports {module}; {here} knows only {sorted(known)}"


def test_nothing_imports_a_top_level_twin() -> None:
    twins = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert {"core", "auto", "backbones"} <= twins
    everything = [*FILES, *(ROOT / "examples").glob("*.py"), *(ROOT / "tests").rglob("*.py")]
    for path in everything:
        for module, _ in imports(path):
            assert module.partition(".")[0] not in twins, f"{path} imports {module}; write vertebra.{module}"


def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    for path in [*FILES, *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")), *_data()]:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {_in_wheel(path) for path in [*FILES, *_data()]}
    assert held == expected, f"missing {sorted(expected - held)}, too many {sorted(held - expected)}"


def _data() -> list[Path]:
    return [
        path for name in FOLDERS for kind in ("*.pyi", "py.typed", "*.json.gz") for path in (ROOT / name).rglob(kind)
    ]


def _in_wheel(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).parts
    return "/".join(["vertebra", *([] if folder == CORE else [folder]), *rest])


@pytest.mark.parametrize("name", vertebra.__all__)
def test_public_names_resolve_and_say_what_they_are(name: str) -> None:
    value = getattr(vertebra, name)
    if inspect.isclass(value):
        own = vars(value).get("__doc__") or ""
        assert len(own) >= 15, f"{name} has no docstring of its own"
        assert not own.startswith(f"{name}("), f"{name} has only the docstring that dataclasses make"


def test_stub_and_module_agree() -> None:
    stub = ast.parse((ROOT / CORE / "__init__.pyi").read_text())
    aliases = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname == alias.name for alias in aliases), "write `X as X`, or type checkers hide the name"
    assert sorted(alias.name for alias in aliases) == vertebra.__all__ == sorted(set(vertebra.__all__))
    assert set(vertebra.__all__) <= set(dir(vertebra))


def test_unknown_public_name_shows_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'AutoBackbon'\. Did you mean 'AutoBackbone'"):
        vertebra.AutoBackbon  # noqa: B018


def test_import_costs_nothing() -> None:
    code = "import sys, vertebra; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "timm", "torchvision", "numpy", "PIL", "huggingface_hub", "safetensors"} & set(loaded)


def test_every_module_imports_and_has_a_docstring() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
        if path.name != "__main__.py":
            importlib.import_module(_in_wheel(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."))
