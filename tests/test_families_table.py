"""docs/families.md says what the code says: all but its times follow from the classes, and its examples run."""

import importlib.util
import re
import sys
from types import ModuleType

import pytest
from backbone_rows import FAMILIES as TESTED
from real import ROOT
from test_readme import run

PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The script that writes the page; `families` is the name of the tests' rows."""
    spec = importlib.util.spec_from_file_location("families_table", ROOT / "benchmarks" / "families.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_native_family_has_a_row(table: ModuleType) -> None:
    rows = [name for network in table.NETWORKS for name in network.model_types]
    assert len(rows) == len(set(rows))
    assert set(rows) == table.native(), (
        "a native family has no row in NETWORKS of benchmarks/families.py, or a row no family"
    )


def test_the_page_is_what_the_code_says(table: ModuleType) -> None:
    measured, times = table.measurements(PAGE)
    assert table.page(measured, times) == PAGE, "run `make families`"


def test_every_row_was_measured(table: ModuleType) -> None:
    measured, times = table.measurements(PAGE)
    assert re.fullmatch(r"Measured on .+, \d+ threads, .+, \d+ rounds\..*", measured)
    assert times.keys() == {network.name for network in table.NETWORKS}, "run `make families`"
    for ours, ratio in times.values():
        assert float(ours) > 0
        low, high = map(float, re.fullmatch(r"(?:\S+) \((\S+) to (\S+)\)", ratio).groups())  # type: ignore[union-attr]
        assert 0 < low <= float(ratio.split()[0]) <= high


def test_default_networks_are_those_of_transformers(table: ModuleType) -> None:
    """The rows of the parity tests hold what transformers' default configurations were measured to be."""
    compared = 0
    for network in table.NETWORKS:
        default = next(iter(TESTED[network.name.replace("-", "_")].values())).default
        if default and not network.kwargs:
            *_, parameters = network.facts()
            assert tuple(network.backbone.channels) == default.channels, network.name
            assert tuple(network.backbone.strides) == default.strides, network.name
            assert parameters == f"{default.parameters / 1e6:.1f}", network.name
            compared += 1
    assert compared >= 12


def test_examples_give_the_values_in_their_comments() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert run(code, {}) == 7
