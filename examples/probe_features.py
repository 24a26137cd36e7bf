"""Which level of which backbone knows the classes: nearest neighbours and a linear probe on stored features.

    python examples/labelled_photos.py demo/digits
    vertebra extract demo/digits demo/digits-lite0 --model demo/lite0 --size 96 --indices 0,1,2,3,4 --pool mean
    python examples/probe_features.py demo/digits-lite0 --out demo/probe.png

Each STORE holds the features of one backbone for the same images, whose ids are {train,test}/<class>/<file>, as `vertebra
extract` makes them of such a folder. Maps are averaged to one vector an image, here or while they were extracted (`--pool mean`,
which stores a hundredth). Nothing is random, and of the features only the vectors of one level are in memory.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from probe_picture import draw_table
from torch import Tensor

from vertebra import FeatureStore

ROWS = 256  # maps that are averaged at once
NEIGHBOURS, TEMPERATURE = 10, 0.07
PENALTIES = [10.0**power for power in range(-5, 2)]


def read_vectors(store: FeatureStore, level: str) -> Tensor:
    """The maps of a level averaged over their cells, `(images, channels)`, in the order of `store.ids`."""
    blocks = (block.maps for block in store[level].blocks())
    return torch.cat([part.float().mean((2, 3)) for maps in blocks for part in maps.split(ROWS)])


def read_labels(store: FeatureStore) -> tuple[Tensor, Tensor, list[str]]:
    """What the ids say: `(images,)` whether one is to train on, `(images,)` classes, and their names."""
    found = [id_.split("/") for id_ in store.ids]
    if wrong := ["/".join(parts) for parts in found if len(parts) < 3 or parts[0] not in ("train", "test")]:
        raise SystemExit(
            f"{wrong[0]!r} in {store.storage} is no id of the form train/<class>/<file> or test/<class>/<file>."
        )
    names = sorted({parts[1] for parts in found if parts[0] == "train"})
    tested = {parts[1] for parts in found if parts[0] == "test"}
    if not tested or not tested <= set(names):
        raise SystemExit(f"{store.storage} has the classes {names} to train on, and {sorted(tested)} to test on.")
    train = torch.tensor([parts[0] == "train" for parts in found])
    return train, torch.tensor([names.index(parts[1]) for parts in found]), names


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both with mean 0 and deviation 1 in every channel of `train`; channels that hardly change stay small."""
    mean, deviation = train.mean(0), train.std(0)
    deviation = deviation.clamp(min=1e-3 * float(deviation.mean()) + 1e-12)
    return (train - mean) / deviation, (test - mean) / deviation


def nearest_neighbours(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """Classes of `test` by the votes of the most similar vectors of `train`; the more similar, the heavier (cosine, softmax)."""
    train, votes = F.normalize(train), []
    for part in F.normalize(test).split(ROWS):
        similar, which = (part @ train.T).topk(min(NEIGHBOURS, len(train)))
        weights = F.one_hot(labels[which], classes) * (similar / TEMPERATURE).softmax(1)[:, :, None]
        votes.append(weights.sum(1).argmax(1))
    return torch.cat(votes)


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """Classes of `test` by ridge regression to one score a class; the penalty is the best one when each image is left out."""
    count, targets = len(train), F.one_hot(labels, classes).double()
    prior = targets.mean(0)
    left, scales, right = torch.linalg.svd(train.double(), full_matrices=False)
    projected, best = left.T @ (targets - prior), (-1.0, torch.empty(0))
    for penalty in PENALTIES:
        shrunk = scales**2 / (scales**2 + count * penalty)
        fitted = prior + left @ (shrunk[:, None] * projected)
        leverage = 1 / count + left**2 @ shrunk
        left_out = targets - (targets - fitted) / (1 - leverage)[:, None]  # what a fit without the image gives for it
        weights = right.T @ ((scales / (scales**2 + count * penalty))[:, None] * projected)
        best = max(best, (accuracy(left_out.argmax(1), labels), weights), key=lambda pair: pair[0])
    return (prior + test.double() @ best[1]).argmax(1)


PROBES: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "knn": nearest_neighbours,
    "linear": linear_probe,
}


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    return (predicted == labels).double().mean().item()


def probe(store: FeatureStore) -> list[dict[str, Any]]:
    """One row for each level: the share of test images whose class each probe finds."""
    train, labels, names = read_labels(store)
    rows = []
    for level in store.levels:
        vectors = read_vectors(store, level)
        fitted, tested = standardised(vectors[train], vectors[~train])
        found = {name: run(fitted, labels[train], tested, len(names)) for name, run in PROBES.items()}
        scores = {name: accuracy(predicted, labels[~train]) for name, predicted in found.items()}
        where = {"store": Path(str(store.storage)).name, "model": store.record["model_id"], "level": level}
        rows.append({**where, "channels": vectors.shape[1], **scores})
    return rows


def open_stores(folders: Sequence[str]) -> list[FeatureStore]:
    """The stores, which hold the same images: accuracies on others would not compare."""
    stores = [FeatureStore(folder) for folder in folders]
    for store in stores[1:]:
        if differ := sorted(set(store.ids) ^ set(stores[0].ids)):
            raise SystemExit(
                f"{store.storage} and {stores[0].storage} differ in {len(differ)} images, first {differ[0]!r}."
            )
    return stores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", metavar="STORE")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="draw the table as a picture")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    stores = open_stores(args.stores)
    train, _, names = read_labels(stores[0])
    error = 50 / (~train).sum().item() ** 0.5  # of a share of one half, in per cent: the most there can be
    task = f"{len(names)} classes, {train.sum()} images to train on, {(~train).sum()} to test on (± {error:.1f} %)"
    rows = [row for store in stores for row in probe(store)]
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        draw_table(rows, list(PROBES), task, chance=1 / len(names)).quantize(96).save(args.out, optimize=True)
    ranked = sorted(rows, key=lambda row: -row["linear"])
    if args.json:
        return print(json.dumps(ranked, indent=1))
    width = max(len(row["store"]) for row in rows)
    print(f"{task}\n{'store':<{width}}  {'level':<12} {'channels':>8} {'kNN':>6} {'linear':>6}")
    for row in ranked:
        scores = f"{row['channels']:>8} {row['knn']:6.3f} {row['linear']:6.3f}"
        print(f"{row['store']:<{width}}  {row['level']:<12} {scores}")
    return None


if __name__ == "__main__":
    main()
