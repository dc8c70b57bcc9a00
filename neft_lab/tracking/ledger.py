"""What was sent already: ``tracked.json`` beside the sweep, a digest per run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from neft_lab.store import read_json, write_json
from neft_lab.tracking.account import Mode


@dataclass(frozen=True)
class Sent:
    """One run as it was last sent."""

    digest: str
    mode: Mode
    """``online``: the server has it. ``offline``: it lies on disk, for ``wandb sync``."""


class Ledger:
    """Runs by id as they were last sent; an unreadable file counts as an empty one, for sending again does no harm."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent: dict[str, Sent] = {}
        if path.is_file():
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                self._sent = {name: Sent(**entry) for name, entry in read_json(path)["runs"].items()}

    def get(self, run: str) -> Sent | None:
        """How a run was last sent, if ever."""
        return self._sent.get(run)

    def add(self, run: str, sent: Sent) -> None:
        """Note a run as sent; on disk when this returns."""
        self._sent[run] = sent
        write_json(self._path, {"runs": {name: asdict(entry) for name, entry in self._sent.items()}})
