"""One tiny native backbone after the other."""

import pytest
from backbone_rows import ROWS, Row


@pytest.fixture(params=ROWS.values(), ids=ROWS.keys())
def row(request: pytest.FixtureRequest) -> Row:
    return request.param
