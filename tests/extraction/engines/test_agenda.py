"""Who is to blame when processes end, without any process."""

from pathlib import Path

import pytest
from tiny_store import jpegs, recipe

from vertebra.extraction.engines.agenda import Agenda, Task
from vertebra.extraction.plan import Plan, make_plan
from vertebra.extraction.runtime import Runtime


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Three shards of up to five images."""
    return make_plan(jpegs(tmp_path / "images", 13), tmp_path / "out", Runtime(recipe()), 5 * 1920)


def drive(agenda: Agenda, deadly: dict[int, set[int]]) -> list[Task]:
    """Take all tasks in turn, with a process that ends when it touches a deadly row of a shard; return them."""
    taken = []
    while (task := agenda.take(True)) is not None:
        taken.append(task)
        images = agenda.plan.ids_of(task.shard)
        touched = range(*task.rows) if task.rows else range(len(images))
        if any(row in deadly.get(task.shard, ()) and images[row].id not in task.crashed for row in touched):
            agenda.died([task], "SIGKILL")
        elif task.rows:
            agenda.survived(task)
    return taken


def test_without_deaths_each_shard_is_done_once(plan: Plan) -> None:
    agenda = Agenda(plan, plan.shards)
    assert len(agenda) == 3
    assert drive(agenda, {}) == [Task(0), Task(1), Task(2)]
    assert len(agenda) == 0


@pytest.mark.parametrize("deadly", [{3}, {0, 4}, {0, 1, 2, 3, 4}])
def test_what_is_deadly_is_found(plan: Plan, deadly: set[int]) -> None:
    agenda = Agenda(plan, plan.shards)
    taken = drive(agenda, {1: deadly})
    names = [image.id for image in plan.ids_of(1)]
    assert agenda.failure is None
    assert [task.shard for task in taken[:3]] == [0, 1, 2]  # the suspect comes last
    assert taken[3:5] == [Task(1, alone=True)] * 2
    assert taken[5] == Task(1, (0, 2), alone=True)
    assert Task(1, (2, 5), alone=True) in taken
    assert all(task.alone and task.shard == 1 for task in taken[3:])
    assert taken[-1].rows is None
    assert taken[-1].crashed.keys() == {names[row] for row in deadly}
    if deadly == {3}:
        assert [task.rows for task in taken[5:]] == [
            (0, 2), (2, 5), (2, 3), (3, 5), (3, 4), (3, 4), (4, 5), None,
        ]  # fmt: skip


def test_many_deadly_images_are_no_fault_of_theirs(tmp_path: Path) -> None:
    """Else a shard of thousands would be gone through one by one, on a drive that does not answer."""
    plan = make_plan([(f"{n}", f"/{n}.jpg") for n in range(1000)], tmp_path / "out", Runtime(recipe()))
    agenda = Agenda(plan, [0])
    taken = drive(agenda, {0: set(range(1000))})
    assert len(taken) < 100
    with pytest.raises(
        RuntimeError, match=r"^More than 16 images of shard 0 end the process that computes them \(SIGKILL\)"
    ):
        raise agenda.failure or AssertionError


def test_accidents_are_no_fault_of_an_image(plan: Plan) -> None:
    agenda = Agenda(plan, [0])
    for _ in range(2):
        task = agenda.take(True)
        assert task is not None
        agenda.died([task], "SIGKILL")
    assert drive(agenda, {}) == [Task(0, alone=True)]
    agenda = Agenda(plan, [2])
    for rows in (None, None, None, (0, 1)):  # the whole, and then its first image
        task = agenda.take(True)
        assert task is not None
        assert task.rows == rows
        agenda.died([task], "SIGKILL")
    assert [task.rows for task in drive(agenda, {})] == [(0, 1), (1, 3), None]
    assert not agenda.blamed[2]


def test_a_shard_that_ends_processes_though_no_image_does(plan: Plan) -> None:
    agenda = Agenda(plan, [0])
    while (task := agenda.take(True)) is not None:
        if task.rows:
            agenda.survived(task)
        else:
            agenda.died([task], "SIGKILL")
    with pytest.raises(
        RuntimeError, match=r"Shard 0 has ended its process 3 times \(SIGKILL\), though none of its images does"
    ):
        raise agenda.failure or AssertionError


def test_who_had_several_in_hand_is_tried_alone(plan: Plan) -> None:
    agenda = Agenda(plan, plan.shards)
    first, second = agenda.take(True), agenda.take(False)
    assert (first, second) == (Task(0), Task(1))
    agenda.died([Task(0), Task(1)], "SIGKILL")
    assert agenda.take(False) == Task(2)
    assert agenda.take(False) is None  # it is not idle
    assert agenda.take(True) == Task(0, alone=True)


def test_the_first_failure_counts_and_closes(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    agenda = Agenda(plan, plan.shards)
    agenda.fail(OSError("no space"))
    agenda.fail(OSError("none here either"))
    assert str(agenda.failure) == "no space"
    assert caplog.messages == ["Another process failed as well: none here either"]
    assert (agenda.take(True), len(agenda)) == (None, 0)
