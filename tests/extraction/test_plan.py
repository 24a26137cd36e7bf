"""Plans: written once, cut by bytes, the same for every run, and refused for another job."""

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from real import tiny_backbone, tiny_processor
from tiny_store import jpegs, recipe

from vertebra.extraction.image_table import ImageTable
from vertebra.extraction.images import ImageRef
from vertebra.extraction.plan import MAX_IDS, Plan, diff, make_plan, open_plans, refuse_another_job
from vertebra.extraction.recipe import Job, Recipe, fingerprint, recipe_from_json
from vertebra.extraction.reduction import Reduction
from vertebra.extraction.shard_file import Shard
from vertebra.extraction.worker import write_shard

BYTES = 1920  # of an image of tiny_store.recipe()


class Facts:
    """A job of which only the size of its maps is known."""

    def __init__(self, bytes_per_image: int = BYTES, **meaning: Any) -> None:
        self.meaning = {"dtype": "float16", **meaning}
        self.record = {"batch_size": 8}
        self.fingerprint = fingerprint(self.meaning)
        self._bytes = bytes_per_image

    def bytes_per_image(self) -> int:
        return self._bytes


def pairs(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"{index}", f"/{index}.jpg") for index in range(start, start + count)]


def test_shards_are_cut_by_bytes(tmp_path: Path) -> None:
    plan = make_plan(pairs(10), tmp_path / "out", Facts(), 3 * BYTES + 1)
    assert (plan.per_shard, plan.count, plan.ids, plan.shards) == (3, 4, 10, range(4))
    assert [[image.id for image in plan.ids_of(k)] for k in plan.shards] == [
        ["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9"],
    ]  # fmt: skip
    assert plan.ids_of(3) == [ImageRef("9", "/9.jpg", 0)]
    assert make_plan(pairs(10), tmp_path / "one", Facts(), 1).per_shard == 1
    assert make_plan(pairs(9), tmp_path / "many", Facts(1), 2**30).per_shard == MAX_IDS


def test_long_ids_make_small_shards(tmp_path: Path) -> None:
    plan = make_plan([("x" * 60_000, "/x"), ("y", "/y")], tmp_path / "out", Facts(1))
    assert plan.per_shard * 60_000 * 2 < 2**26


def test_table_has_what_the_layout_says(tmp_path: Path) -> None:
    table = make_plan(pairs(5), tmp_path / "out", Facts(), 2 * BYTES).table()
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "id": "large_string", "uri": "large_string", "shard": "int32", "row": "int32", "tried": "int32",
    }  # fmt: skip
    assert table["shard"].to_pylist() == [0, 0, 1, 1, 2]
    assert table["row"].to_pylist() == [0, 1, 0, 1, 0]


def test_opening(tmp_path: Path) -> None:
    assert open_plans(tmp_path) == open_plans(tmp_path / "none") == []
    plan = make_plan(pairs(5), tmp_path / "out", Facts())
    assert open_plans(tmp_path / "out") == [plan]
    assert plan.record == {"batch_size": 8, "kind": "first", "source": "a list of 5 images"}
    with pytest.raises(ValueError, match="plan-0000 has the shards 0 to 0, not 7"):
        plan.ids_of(7)


def test_generations_go_on_counting(tmp_path: Path) -> None:
    first = make_plan(pairs(5), tmp_path / "out", Facts(), 2 * BYTES)
    second = make_plan(pairs(3, 5), tmp_path / "out", Facts(), 2 * BYTES, tried={"6": 2})
    assert open_plans(tmp_path / "out") == [first, second]
    assert (second.generation, second.shards) == (1, range(3, 5))
    assert [image.tried for image in second.ids_of(3)] == [0, 2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "plan-0000.json", "plan-0000.parquet", "plan-0001.json", "plan-0001.parquet",
    ]  # fmt: skip


def test_hostile_ids_are_data(tmp_path: Path) -> None:
    ids = ["../../x", "/etc/passwd", "x" * 4096, "a\nb", "\x00", "ünï☃\u202e", "000000.safetensors", "'; --", " "]
    plan = make_plan([(id_, "/x.jpg") for id_ in ids], tmp_path / "store/out", Facts())
    assert [image.id for image in plan.ids_of(0)] == ids
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "out", "plan-0000.json", "plan-0000.parquet", "store",
    ]  # fmt: skip


def test_another_job_is_refused_with_what_differs(tmp_path: Path) -> None:
    make_plan(pairs(5), tmp_path / "out", Facts(decoder="fast"))
    with pytest.raises(
        ValueError, match=r"holds the features of another job:\n  dtype: stored 'float16', asked 'bfloat16' "
    ):
        make_plan(pairs(5), tmp_path / "out", Facts(decoder="fast", dtype="bfloat16"))
    assert len(open_plans(tmp_path / "out")) == 1


def test_diff_names_facts_and_options() -> None:
    """Every option that decides values shows up, in words, with what sets it."""
    stored = Job(recipe()).meaning

    def changes(**options: Any) -> list[str]:
        return diff(stored, Job(recipe(**options)).meaning)

    assert changes() == []
    assert changes(dtype="bfloat16") == ["dtype: stored 'float16', asked 'bfloat16' (--dtype)"]
    assert changes(upright=False) == ["upright: stored True, asked False (--no-upright)"]
    assert changes(allow_nonfinite=True) == ["nonfinite: stored 'refused', asked 'kept' (--allow-nonfinite)"]
    assert changes(size=(64, 48)) == ["preprocessing.size.height: stored 32, asked 64 (--size)"]
    assert changes(processor=tiny_processor(image_mean=[0.4] * 3)) == [
        "preprocessing.image_mean: stored [0.5, 0.5, 0.5], asked [0.4, 0.4, 0.4]"
    ]
    assert changes(reductions={"stem": Reduction("mean2", channels="0:2")}) == [
        "levels.stem.channel_subset: stored nothing, asked '0:2' (--channels)",
        "levels.stem.channels: stored 4, asked 2",
        "levels.stem.offset: stored ['1/2', '1/2'], asked ['5/2', '5/2']",
        "levels.stem.pool: stored nothing, asked 'mean2' (--pool)",
        "levels.stem.stride: stored [4, 4], asked [8, 8]",
    ]
    fewer = tiny_backbone(out_features=["stem", "stage2"])
    fewer.load_state_dict(recipe().model.state_dict())  # type: ignore[union-attr]
    assert changes(backbone=fewer) == [
        "levels: stored ['stem', 'stage1', 'stage2'], asked ['stem', 'stage2'] (--features, --indices or --strides)"
    ]
    torch.manual_seed(1)
    (weights,) = changes(backbone=tiny_backbone(out_features=["stem", "stage1", "stage2"]))
    assert weights.startswith("model.weights_sha256: stored '")


def test_circumstances_change_no_meaning() -> None:
    job = Job(recipe())
    for options in ({"batch_size": 3}, {"decode_threads": 7}, {"max_pixels": 10**6}, {"device": "cpu"}):
        assert Job(recipe(**options)).fingerprint == job.fingerprint
    assert job.record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"batch_size", "device", "host", "model_id", "recipe"} <= job.record.keys()


def test_recipes_by_name_survive_in_the_record(tmp_path: Path) -> None:
    tiny_backbone().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    whole = Recipe(
        str(tmp_path / "model"),
        {"out_indices": [1, 2]},
        size=(32, 48),
        reductions={"*": Reduction("mean2")},
        batch_size=3,
    )
    plan = make_plan(pairs(1), tmp_path / "out", Job(whole))
    assert recipe_from_json(open_plans(plan.storage.folder)[0].record["recipe"]) == whole
    assert Job(recipe_from_json(plan.record["recipe"])).fingerprint == plan.fingerprint
    assert Job(recipe()).record["recipe"] is None


def test_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = make_plan(pairs(5), tmp_path / "out", Facts(), 2 * BYTES)
    assert plan.done() == set()
    for k in plan.shards:
        write_shard(plan, k, Shard())
    (plan.storage.folder / "shards/.000000.safetensors.1.tmp").write_text("")
    (plan.storage.folder / "shards/notes.txt").write_text("")
    assert plan.done() == {0, 1, 2}
    path = plan.storage.folder / "shards/000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert plan.done() == {0, 2}
    assert "is not a whole safetensors file" in caplog.text
    assert caplog.text.rstrip().endswith("It counts as missing, and the same extraction computes it anew.")
    path.write_bytes((plan.storage.folder / "shards/000002.safetensors").read_bytes())
    with pytest.raises(FileExistsError, match=r"000001\.safetensors' is not of this plan \(it differs in shard\)"):
        plan.done()


def test_damaged_plans(tmp_path: Path) -> None:
    plan = make_plan(pairs(5), tmp_path / "out", Facts())
    path = plan.storage.folder / "plan-0000.json"
    text = path.read_text()
    for damaged in (text[:100], text.replace('"digest"', '"other"'), text.replace('"ids": 5', '"ids": "5"'), "[]", "7"):
        path.write_text(damaged)
        with pytest.raises(OSError, match=r"plan-0000\.json' is damaged"):
            open_plans(plan.storage.folder)
    path.write_text(text.replace('"format": 2', '"format": 9'))
    with pytest.raises(ValueError, match="has format 9; this version of vertebra reads 2"):
        open_plans(plan.storage.folder)
    path.write_text(text.replace("float16", "float32"))
    with pytest.raises(OSError, match=r"plan-0000\.json' is damaged.*fingerprint"):
        open_plans(plan.storage.folder)


def test_ids_that_were_changed(tmp_path: Path) -> None:
    plan = make_plan(pairs(5), tmp_path / "out", Facts())
    other = make_plan(pairs(5, 1), tmp_path / "other", Facts())
    (plan.storage.folder / "plan-0000.parquet").write_bytes((other.storage.folder / "plan-0000.parquet").read_bytes())
    with pytest.raises(OSError, match=r"plan-0000\.parquet' is not the file that plan-0000\.json was written with"):
        plan.ids_of(0)
    (plan.storage.folder / "plan-0000.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"plan-0000\.parquet"):
        open_plans(plan.storage.folder)[0].ids_of(0)


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FileExistsError, match=r"holds other files \(0000\.jpg, 0001\.jpg\); give a new or an empty folder"
    ):
        make_plan(pairs(2), jpegs(tmp_path / "photos", 2), Facts())
    assert not (tmp_path / "photos/shards").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        make_plan(pairs(2), tmp_path / "file", Facts())


def test_many_ids(tmp_path: Path) -> None:
    """200,000 ids in a moment; a million take five times as long."""
    count = 200_000
    ids = pa.array([f"n{index % 1000:04d}/{index:08x}.jpg" for index in range(count)], pa.large_string())
    found = ImageTable(pa.table({"id": ids, "uri": ids}), source="synthetic ids")
    started = time.process_time()
    plan = make_plan(found, tmp_path / "out", Facts(100_352))
    assert time.process_time() - started < 5
    assert (plan.storage.folder / "plan-0000.parquet").stat().st_size < 20 * count
    assert plan.ids_of(plan.shards[-1])[-1].id == ids[-1].as_py()
    assert (
        sum(len(plan.ids_of(k)) for k in (0, plan.count - 2, plan.count - 1))
        == 2 * plan.per_shard + count % plan.per_shard
    )


def test_a_job_refuses_itself_never(tmp_path: Path) -> None:
    job = Job(recipe())
    plan: Plan = make_plan(pairs(1), tmp_path / "out", job)
    refuse_another_job(plan, Job(recipe(batch_size=1)))
    assert sorted(os.listdir(tmp_path / "out")) == ["plan-0000.json", "plan-0000.parquet"]  # noqa: PTH208
