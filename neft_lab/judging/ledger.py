"""The ledger of judgements: what was asked of whom and what came back, kept for good.

A folder of SQLite files, one per host, written ahead; every process of a host appends to its host's file,
and all of them read the files together. Rows are only ever added. A commit hands its rows to the operating
system at once, so that a kill of the process costs at most the requests in flight; `sync` brings them to the
disk, so that a power cut does not cost more. The two are apart because a commit takes a tenth of a millisecond and a disk
some milliseconds, in which other answers would lie read and not kept.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import re
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from neft_lab.judging.foreign import query_foreign
from neft_lab.judging.ledger_rows import INSERT, SCHEMA, TABLES, entry_of, row_of, select, text_digest
from neft_lab.judging.questions import Entry, Judgement, Question

FOLDER = "judgements"
"""Name of the ledger's folder below the results folder."""
FOREIGN_FRESH = 10.0
"""Seconds for which what other hosts have spent is taken as known."""


class BudgetSpent(Exception):
    """Another request could take the folder's judging above its limit in dollars."""


class JudgementLedger:
    """All judgements of a results folder; safe for several processes and hosts at a time.

    Args:
        folder: where the hosts' files are; made when it is not there.
        host: name of this host's file; told from the machine when left out.
    """

    def __init__(self, folder: str | Path, *, host: str | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"{host or _host()}.sqlite"
        self._database = sqlite3.connect(self.file, timeout=60, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._foreign_sums: dict[str, tuple[float, float]] = {}
        with self._transaction():
            for statement in filter(str.strip, TABLES.split(";")):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {SCHEMA}")

    def __enter__(self) -> JudgementLedger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close this host's file; the last process to do so folds the write-ahead log into it."""
        self._database.close()

    def find(self, keys: Iterable[str], *, everywhere: bool = True) -> dict[str, list[Judgement]]:
        """Judgements by key, oldest first; without `everywhere` those of this host alone, which is quicker."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, list[Judgement]] = defaultdict(list)
        for entry in self._select(
            "key IN (SELECT value FROM json_each(?))", (json.dumps(wanted),), everywhere, texts=False
        ):
            found[entry.key].append(entry.judgement)
        return dict(found)

    def entries(
        self,
        *,
        judge: str | None = None,
        draw: int | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> list[Entry]:
        """Judgements of all hosts with their texts, oldest first: of one judge, of one draw, the first `limit`.

        With `before` (UTC, ISO 8601) only those given earlier that hold a verdict.
        """
        condition = (
            "(?1 IS NULL OR judge = ?1) AND (?2 IS NULL OR draw = ?2) "
            "AND (?3 IS NULL OR answered_at < ?3 AND preference IS NOT NULL)"
        )
        values = (judge, draw, before, -1 if limit is None else limit)
        found = self._select(condition, values, everywhere=True, texts=True, last="LIMIT ?4")
        return found if limit is None else found[:limit]

    def record(self, question: Question, judgement: Judgement, *, reservation: int | None = None) -> None:
        """Store one judgement, which a kill cannot take back. Frees the reservation made for it."""
        self.record_all([(question, judgement)], reservation=reservation)

    def record_all(
        self, judgements: Sequence[tuple[Question, Judgement]], *, reservation: int | None = None
    ) -> None:
        """Store judgements together: all of them, or none."""
        with self._transaction():
            for question, judgement in judgements:
                self._insert(question, judgement)
            if reservation is not None:
                self._database.execute("DELETE FROM reservations WHERE id = ?", (reservation,))

    def sync(self) -> None:
        """Bring to the disk what this process has recorded; may be called from any thread."""
        with suppress(FileNotFoundError):  # the log was folded into the file, which syncs both
            handle = os.open(self.file.with_name(self.file.name + "-wal"), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def record_failure(self, key: str, *, run: str, reason: str) -> None:
        """Store that a run gave a question up without an answer."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO failures (key, run, reason) VALUES (?, ?, ?)", (key, run, reason)
            )

    def failed_runs(self, keys: Iterable[str]) -> dict[str, dict[str, str]]:
        """For each question that was given up: the runs of this host that did, and why."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        query = (
            "SELECT key, run, reason FROM failures WHERE key IN (SELECT value FROM json_each(?)) ORDER BY id"
        )
        for key, run, reason in self._database.execute(query, (json.dumps(list(keys)),)):
            found[key][run] = reason
        return dict(found)

    def reserve(self, usd: float, *, limit: float) -> int:
        """Set dollars aside for a request about to be sent.

        A reservation whose answer never came stays counted: the service may have charged for it.

        Raises:
            BudgetSpent: spent and reserved dollars of all hosts would exceed the limit.
        """
        with self._transaction():
            committed = self.committed()
            if committed + usd > limit + 1e-12:
                raise BudgetSpent(
                    f"${committed:.4f} of ${limit:g} are spent or on their way, a request may cost ${usd:.4f}"
                )
            made = self._database.execute(
                "INSERT INTO reservations (usd, made_at) VALUES (?, ?)", (usd, _now())
            )
            return int(made.lastrowid or 0)

    def release(self, reservation: int) -> None:
        """Give back what was set aside for a request that certainly cost nothing."""
        with self._transaction():
            self._database.execute("DELETE FROM reservations WHERE id = ?", (reservation,))

    def spent(self) -> float:
        """Dollars that all judgements of all hosts cost together."""
        return self._sum("SELECT usd FROM spent")

    def committed(self) -> float:
        """Dollars spent, and those set aside for answers that have not come."""
        return self.spent() + self._sum("SELECT coalesce(sum(usd), 0) FROM reservations")

    def _sum(self, query: str) -> float:
        own = self._database.execute(query).fetchone()[0]
        read_at, foreign = self._foreign_sums.get(query, (-math.inf, 0.0))
        if time.monotonic() - read_at > FOREIGN_FRESH:
            foreign = sum(row[0] for file in self._others() for row in query_foreign(file, query))
            self._foreign_sums[query] = (time.monotonic(), foreign)
        return float(own + foreign)

    def _insert(self, question: Question, judgement: Judgement) -> None:
        texts = (question.instruction, question.reference, question.output)
        digests = [text_digest(text) for text in texts]
        self._database.executemany(
            "INSERT OR IGNORE INTO texts VALUES (?, ?)", zip(digests, texts, strict=True)
        )
        self._database.execute(INSERT, row_of(question, judgement, digests, answered_at=_now()))
        if judgement.usd and judgement.origin == "asked":
            self._database.execute("UPDATE spent SET usd = usd + ?", (judgement.usd,))

    def _select(
        self, condition: str, values: tuple[Any, ...], everywhere: bool, *, texts: bool, last: str = ""
    ) -> list[Entry]:
        query = select(condition, texts=texts, last=last)
        rows = self._database.execute(query, values).fetchall()
        if everywhere:
            rows += [row for file in self._others() for row in query_foreign(file, query, values)]
        entries = [entry_of(row) for row in rows]
        return sorted(entries, key=lambda entry: entry.judgement.answered_at)

    def _others(self) -> list[Path]:
        return [file for file in sorted(self.folder.glob("*.sqlite")) if file != self.file]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            if self._database.in_transaction:  # a full disk has ended it already
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file)) from None
            raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _host() -> str:
    """Name and network address of this machine: names alone repeat among containers and laptops."""
    address = uuid.getnode()
    random_address = address >> 40 & 1  # no network card: the number is another one in every process
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", platform.node()) or "host"
    return name if random_address else f"{name}-{address:012x}"
