"""One tiny native backbone after the other, and checkpoints of transformers, saved once each."""

from collections.abc import Callable
from typing import Any

import pytest
from backbone_rows import ALL, MAIN, ROWS, Checkpoint, Row
from oracle import save_with_transformers


def _taken(request: pytest.FixtureRequest) -> Row:
    row: Row = request.param
    if reason := row.exceptions.get(request.node.originalname):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    return row


def _with_variants(rows: dict[str, Row]) -> list[Any]:
    """Rows as parameters; those that are not the first of their family run in the slow suite, but for the comparisons."""
    return [pytest.param(row, id=name, marks=() if name in MAIN else pytest.mark.slow) for name, row in rows.items()]


@pytest.fixture(params=_with_variants(ROWS))
def row(request: pytest.FixtureRequest) -> Row:
    return _taken(request)


@pytest.fixture(params=MAIN.values(), ids=MAIN.keys())
def main_row(request: pytest.FixtureRequest) -> Row:
    """The first row of each family."""
    return _taken(request)


CLASSIFIED = {name: row for name, row in ROWS.items() if "ForImageClassification" in row.kinds}


@pytest.fixture(params=_with_variants(CLASSIFIED))
def classified(request: pytest.FixtureRequest) -> Row:
    """A row with a classifier."""
    return _taken(request)


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def compared(request: pytest.FixtureRequest) -> Row:
    """A row or a variant that is compared with transformers only."""
    return _taken(request)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row, str], Checkpoint]:
    """A row's model of transformers and the folder it is saved to."""
    made: dict[tuple[str, str], Checkpoint] = {}

    def checkpoint(row: Row, kind: str) -> Checkpoint:
        kind = "Model" if kind == "Backbone" and row.oracle else kind
        if (row.name, kind) not in made:
            folder = tmp_path_factory.mktemp(f"{row.name}-{kind}")
            made[row.name, kind] = Checkpoint(folder, save_with_transformers(row.their_model(kind), folder))
        return made[row.name, kind]

    return checkpoint
