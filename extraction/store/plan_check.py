"""Whether the plans of a store fit their files of ids, and each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vertebra.errors import listing
from vertebra.extraction.ledger import RETRY
from vertebra.extraction.plan import Plan, plan_name
from vertebra.extraction.storage import Storage
from vertebra.extraction.store.findings import LEFTOVER, PLAN, SHOWN, TWICE, Finding


def check_ids(plan: Plan) -> Finding | None:
    """What is wrong with a plan's file of ids; None where nothing is."""
    import numpy as np

    name, advice = f"{plan.name}.parquet", "Put the original back: without it nobody knows which images are missing."
    try:
        table = plan.table()
        columns = table["shard"].to_numpy(), table["row"].to_numpy()
    except (OSError, ValueError, KeyError) as error:
        return Finding(PLAN, name, str(error), advice)
    number = np.arange(plan.ids)
    rows = plan.first + number // plan.per_shard, number % plan.per_shard
    if len(table) != plan.ids or not all(map(np.array_equal, columns, rows)):
        return Finding(PLAN, name, f"its rows are not the {plan.ids} images of {plan.name}.json.", advice)
    return None


def check_plans(storage: Storage, plans: Sequence[Plan]) -> Iterator[Finding]:
    """What is wrong with the numbers of plans, and which are missing."""
    first = 0
    for generation, plan in enumerate(plans):
        count = -(-plan.ids // plan.per_shard)
        if (plan.generation, plan.first, plan.count) != (generation, first, count):
            text = f"its numbers do not follow from the plan before it: generation {plan.generation}, shards {plan.shards}."
            yield Finding(PLAN, f"{plan.name}.json", text, "Put the original back.")
        if plan.fingerprint != plans[0].fingerprint:
            yield Finding(
                PLAN, f"{plan.name}.json", "it is of another job than the first plan.", "Put the original back."
            )
        first += plan.count
    known = {f"{plan.name}.{ending}" for plan in plans for ending in ("json", "parquet")}
    for name in storage.names():
        if name.startswith("plan-") and name not in known:
            follows = name == f"{plan_name(len(plans))}.parquet"
            if follows:
                text, kind = "it has no .json: making a plan was interrupted.", LEFTOVER
            else:
                text, kind = f"a plan before it is missing: {plan_name(len(plans))}.json.", PLAN
            advice = "The next plan replaces it." if follows else "Put the missing plan back."
            yield Finding(kind, name, text, advice)


def check_repeats(plans: Sequence[Plan]) -> Iterator[Finding]:
    """Images that two plans give to shards of their own, or that a plan tries again though no other has them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    before = pa.array([], pa.large_string())
    for plan in plans:
        ids = plan.table()["id"].combine_chunks()
        known = pc.is_in(ids, value_set=before)
        again = plan.record.get("kind") == RETRY
        bad = ids.filter(pc.invert(known) if again else known)
        if len(bad):
            text = (
                f"{len(bad)} of its images {'are in no plan before it' if again else 'are in a plan before it too'}: "
            )
            yield Finding(
                TWICE, plan.name, f"{text}{listing(map(repr, bad[:SHOWN].to_pylist()))}.", "Put the original back."
            )
        if not again:
            before = pa.concat_arrays([before, ids])
