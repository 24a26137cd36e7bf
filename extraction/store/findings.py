"""What a check of a store says: what is wrong, where, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

DAMAGED, UNREADABLE, MISPLACED = "damaged", "unreadable", "misplaced"
UNEVEN, MISSING = "uneven", "missing"
PLAN, TWICE, CACHE = "plan", "twice", "manifest"
LEFTOVER, STRANGE = "leftover", "strange"
HARMLESS = (LEFTOVER, STRANGE)
SHOWN = 5
"""Examples that a finding names."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Args:
        kind: `"damaged"` (a shard's content), `"unreadable"` (nobody knows what it holds), `"misplaced"` (a sound shard in the
            place of another), `"uneven"` (maps of one level and size that differ in shape from shard to shard), `"missing"`
            (shards that are not computed), `"plan"`, `"twice"` (images with two records), `"manifest"` (a cache that tells
            something else); `"leftover"` and `"strange"` files are harmless.
        name: The file, as the store calls it.
        text: What is wrong.
        advice: What to do.
    """

    kind: str
    name: str
    text: str
    advice: str

    @property
    def is_harmless(self) -> bool:
        """Whether the store is sound in spite of it."""
        return self.kind in HARMLESS


@dataclass(frozen=True)
class Report:
    """What `verify_store` found.

    Args:
        store: Where the store is.
        planned: How many images it is to have.
        extracted: How many have maps in sound shards.
        quarantined: How many are in the quarantine of sound shards.
        shards: Number of sound shards.
        size_bytes: Their size together.
        findings: What is wrong, and what only looks wrong.
    """

    store: str
    planned: int = 0
    extracted: int = 0
    quarantined: int = 0
    shards: int = 0
    size_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        """The findings that are not harmless."""
        return [finding for finding in self.findings if not finding.is_harmless]

    @property
    def is_sound(self) -> bool:
        """Whether every image of every plan has exactly one record, in a file that is as it was written."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {"sound": self.is_sound, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{self.extracted} images with maps and {self.quarantined} in quarantine, of {self.planned} planned, in "
            f"{self.shards} sound shard{'' if self.shards == 1 else 's'} ({self.size_bytes / 2**20:.1f} MiB) of {self.store}"
        ]
        for finding in sorted(self.findings, key=lambda finding: finding.is_harmless):
            lines += [f"{finding.kind}: {finding.name}: {finding.text}", f"    {finding.advice}"]
        count = len(self.problems)
        return "\n".join([*lines, "sound" if not count else f"NOT SOUND: {count} problem{'' if count == 1 else 's'}"])
