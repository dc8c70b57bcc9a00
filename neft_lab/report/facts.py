"""What stands beside the answer: holes, the noise that was given, the time it took, and where it all comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from neft_lab.claims.labels import short_labels

if TYPE_CHECKING:
    from neft_lab.claims.results import CellResult

Record = Mapping[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Hole:
    """A stage of a cell without a result, and why."""

    cell: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Dose:
    """The noise that reached the embeddings of one cell; see ``neft_lab.noise.dose.Dose``."""

    cell: str
    mean_noise_norm: float
    noise_to_embedding_rms: float
    equivalent_alpha: float
    changed_token_share: float | None
    """Percent of sampled tokens whose nearest vocabulary row changed; None where that was not looked up."""


@dataclass(frozen=True)
class Cost:
    """Seconds that each finished stage of a cell took; a step that cells share stands in each of them.

    usd: what its judge cost; None where nobody was paid.
    """

    cell: str
    seconds: Mapping[str, float]
    usd: float | None


@dataclass(frozen=True)
class Origin:
    """One outside input: for which stage, what it is, and the revision or digest that was read."""

    stage: str
    name: str
    location: str
    content: str


@dataclass(frozen=True)
class Provenance:
    """On what the records were made. Several values where records differ."""

    commits: Sequence[str]
    environments: Sequence[str]
    packages: Mapping[str, str]
    origins: Sequence[Origin]
    keys: Sequence[tuple[str, Mapping[str, str]]]
    """Keys of the steps of each cell, by stage."""


@dataclass(frozen=True)
class Facts:
    cells: int
    holes: Sequence[Hole]
    doses: Sequence[Dose]
    costs: Sequence[Cost]
    seconds: Mapping[str, float]
    """By stage, each step counted once."""
    usd: float | None
    """What all judges cost, each step counted once; None where nobody was paid."""
    provenance: Provenance


def collect_facts(rows: Sequence[CellResult]) -> Facts:
    """Collect from the cells' records what is reported beside their scores."""
    labels = short_labels([row.axes for row in rows])
    named = list(zip(labels, rows, strict=True))
    records = {
        key: row.records[stage] for row in rows for stage, key in row.keys.items() if stage in row.records
    }
    seconds: dict[str, float] = {}
    for record in records.values():
        seconds[record["stage"]] = seconds.get(record["stage"], 0.0) + record["seconds"]
    return Facts(
        cells=len(rows),
        holes=[Hole(label, stage, why) for label, row in named for stage, why in row.holes.items()],
        doses=[dose for label, row in named if (dose := _dose(label, row)) is not None],
        costs=[
            Cost(
                label,
                {stage: record["seconds"] for stage, record in row.records.items()},
                _dollars(row.records.values()),
            )
            for label, row in named
        ],
        seconds=seconds,
        usd=_dollars(records.values()),
        provenance=_provenance(list(records.values()), [(label, row.keys) for label, row in named]),
    )


def _dose(label: str, row: CellResult) -> Dose | None:
    if "mean_noise_norm" not in row.metrics:
        return None
    return Dose(
        label,
        row.metrics["mean_noise_norm"],
        row.metrics["noise_to_embedding_rms"],
        row.metrics["equivalent_alpha"],
        row.metrics.get("changed_token_share"),
    )


def _dollars(records: Iterable[Record]) -> float | None:
    paid = [record["metrics"]["judge_usd"] for record in records if "judge_usd" in record.get("metrics", {})]
    return sum(paid) if paid else None


def _provenance(records: Sequence[Record], keys: Sequence[tuple[str, Mapping[str, str]]]) -> Provenance:
    packages: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.get("packages", {}).items():
            packages.setdefault(name, {})[version] = None
    return Provenance(
        commits=_distinct(record.get("commit") or "no checkout" for record in records),
        environments=_environments(records),
        packages={name: ", ".join(versions) for name, versions in packages.items()},
        origins=_distinct(origin for record in records for origin in _origins(record)),
        keys=keys,
    )


def _distinct(values: Iterable[Value]) -> list[Value]:
    return list(dict.fromkeys(values))


def _environments(records: Sequence[Record]) -> list[str]:
    """Steps that use no device, such as a judge by length, do not count where others do."""
    found = [record["environment"] for record in records if record.get("environment")]
    used = [environment for environment in found if environment["device"] != "none"] or found
    return _distinct(map(_environment, used))


def _environment(environment: Record) -> str:
    versions = ", ".join(f"{name} {environment[name]}" for name in ("python", "torch", "transformers"))
    device = "no device" if environment["device"] == "none" else environment["device"]
    return f"{device} on {environment['machine']}, {versions}"


def _origins(record: Record) -> Iterable[Origin]:
    """Folders above a file stay out: they say where somebody works, not what was read."""
    resolved = record.get("resolved", {}).get("revisions", {})
    for name, source in record.get("sources", {}).items():
        location = str(source["location"])
        if source["kind"] != "hub":
            location = PurePath(location).name
        content = source.get("digest") or source.get("revision") or resolved.get(name) or "not pinned"
        yield Origin(record["stage"], name.replace("_", " "), f"{location} ({source['kind']})", content)
