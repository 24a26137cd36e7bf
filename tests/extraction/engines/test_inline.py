"""This process as an engine."""

from pathlib import Path
from typing import Any

import pytest
from odd_images import OddImages
from tiny_store import jpegs, recipe

from vertebra.extraction.engines import find_engine
from vertebra.extraction.plan import Plan, make_plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.worker import Receipt


@pytest.fixture
def made(tmp_path: Path) -> tuple[Plan, Recipe]:
    """A plan of six shards of two images."""
    job = recipe(images=OddImages(jpegs(tmp_path / "images", 12)))
    return make_plan(job.images, tmp_path / "out", Runtime(job), 2 * 1920), job


def test_shards_in_order(made: tuple[Plan, Recipe]) -> None:
    plan, job = made
    receipts: list[Receipt] = []
    steps: list[int] = []
    find_engine("inline")(plan, job, [4, 1, 2], on_receipt=receipts.append, advance=steps.append, devices=["cpu"])
    assert [(receipt.shard, receipt.ids) for receipt in receipts] == [(1, 2), (2, 2), (4, 2)]
    assert plan.done() == {1, 2, 4}
    assert sum(steps) == 6


def test_stop(made: tuple[Plan, Recipe]) -> None:
    plan, job = made
    asked: list[Any] = []
    find_engine("inline")(plan, job, plan.shards, stop=lambda: bool(asked.append(0)) or len(asked) > 2)
    assert plan.done() == {0, 1}


def test_one_process_is_no_several(made: tuple[Plan, Recipe]) -> None:
    plan, job = made
    for options in ({"workers": 2}, {"devices": ["cpu", "cpu"]}, {"devices": []}):
        with pytest.raises(
            ValueError, match="ask for several processes, and the engine 'inline' is this one; take the engine"
        ):
            find_engine("inline")(plan, job, plan.shards, **options)  # type: ignore[arg-type]
    assert plan.done() == set()
