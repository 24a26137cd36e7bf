"""A store in a bucket is read, checked and merged as one in a folder, also by processes that were forked."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle import same
from s3_server import bucket
from tiny_store import broken_jpegs, jpeg, jpegs, recipe
from torch.utils.data import DataLoader

from vertebra.extraction.extract import extract
from vertebra.extraction.shard_file import shard_name
from vertebra.extraction.storage import open_storage
from vertebra.extraction.store.export import export
from vertebra.extraction.store.feature_store import FeatureStore
from vertebra.extraction.store.merge import merge
from vertebra.extraction.store.verify import remove_damaged, verify_store

BYTES = 1920


@pytest.fixture(scope="module")
def out() -> Iterator[str]:
    with bucket() as uri:
        yield f"{uri}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def near(out: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store in a folder; `out/first` is the same one in the bucket."""
    folder = tmp_path_factory.mktemp("near")
    broken_jpegs(jpegs(folder / "images", 8))
    for place in (folder / "out", f"{out}/first"):
        extract(folder / "images", place, recipe(), shard_bytes=4 * BYTES)
    return FeatureStore(folder / "out")


def test_maps_are_those_of_a_folder(near: FeatureStore, out: str) -> None:
    far = FeatureStore(f"{out}/first")
    assert (list(far.ids), far.quarantine, far.missing) == (list(near.ids), near.quarantine, 0)
    for row in range(len(near)):
        same(tuple(far.read(row).values()), tuple(near.read(row).values()))
    same(far["stem"].gather([5, 1]), near["stem"].gather([5, 1]))
    same([block.maps for block in far["stage2"].blocks()], [block.maps for block in near["stage2"].blocks()])
    for batch in DataLoader(far.dataset(["stage1"]), batch_size=4, num_workers=1, multiprocessing_context="fork"):
        same(batch["stage1"], near["stage1"].gather(batch["id"]))


def test_checked_and_repaired(near: FeatureStore, out: str, tmp_path: Path) -> None:
    storage = open_storage(f"{out}/first")
    assert str(verify_store(storage)).endswith("\nsound")
    whole = storage.read(shard_name(1))
    with storage.write(shard_name(1)) as file:
        file.write(whole[:-1] + bytes([whole[-1] ^ 1]))
    report = verify_store(storage)
    assert [(finding.kind, finding.name) for finding in report.findings] == [("damaged", shard_name(1))]
    assert remove_damaged(report) == [shard_name(1)]
    assert FeatureStore(storage).missing == 4
    assert FeatureStore(storage).status().manifest == "stale"
    extract(Path(near.uri(0)).parent, storage, recipe(), shard_bytes=4 * BYTES)
    assert storage.read(shard_name(1)) == whole
    assert verify_store(storage).is_sound


def test_merged_and_exported(near: FeatureStore, out: str, tmp_path: Path) -> None:
    extract([("more", jpeg(50))], tmp_path / "more", recipe())
    merge([f"{out}/first", tmp_path / "more"], f"{out}/merged")
    merged = FeatureStore(f"{out}/merged")
    assert (len(merged), merged.ids[-1]) == (9, "more")
    assert verify_store(f"{out}/merged").is_sound
    one, two = (
        export(near, tmp_path / "near", levels=["stem"]),
        export(FeatureStore(f"{out}/first"), tmp_path / "far", levels=["stem"]),
    )
    for path in one.glob("*.tar"):
        assert path.read_bytes() == (two / path.name).read_bytes()
