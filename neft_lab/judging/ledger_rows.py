"""How judgements lie in a host's SQLite file: tables, and rows to and from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from neft_lab.judging.questions import Entry, Judgement, Question

SCHEMA = 1
TABLES = """
CREATE TABLE IF NOT EXISTS texts (digest TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS judgements (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL,
  instruction TEXT NOT NULL, reference TEXT NOT NULL, output TEXT NOT NULL,
  switched INTEGER NOT NULL, judge TEXT NOT NULL, prompt TEXT NOT NULL, decoding TEXT NOT NULL, draw INTEGER NOT NULL,
  preference REAL, raw_completion TEXT, tokens_in INTEGER, tokens_out INTEGER, usd REAL,
  model_version TEXT, answered_at TEXT NOT NULL, seconds REAL, origin TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS judgements_by_key ON judgements (key);
CREATE INDEX IF NOT EXISTS judgements_by_judge ON judgements (judge, draw);
CREATE TABLE IF NOT EXISTS failures (id INTEGER PRIMARY KEY, key TEXT NOT NULL, run TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS failures_by_key ON failures (key);
CREATE TABLE IF NOT EXISTS reservations (id INTEGER PRIMARY KEY, usd REAL NOT NULL, made_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent (usd REAL NOT NULL);
INSERT INTO spent SELECT 0.0 WHERE NOT EXISTS (SELECT 1 FROM spent);
"""
_COLUMNS = (
    "key, preference, raw_completion, tokens_in, tokens_out, usd, model_version, answered_at, seconds, origin, "
    "switched, judge, draw"
)
_TEXTS = ", ".join(
    f"(SELECT text FROM texts WHERE digest = judgements.{name})"
    for name in ("instruction", "reference", "output")
)
INSERT = (
    "INSERT INTO judgements (key, instruction, reference, output, switched, judge, prompt, decoding, draw, "
    "preference, raw_completion, tokens_in, tokens_out, usd, model_version, answered_at, seconds, origin) "
    f"VALUES ({', '.join('?' * 18)})"
)


def select(condition: str, *, texts: bool, last: str = "") -> str:
    """The query for judgements, oldest first; without ``texts`` they come empty."""
    columns = _TEXTS if texts else "'', '', ''"
    return f"SELECT {_COLUMNS}, {columns} FROM judgements WHERE {condition} ORDER BY answered_at, id {last}"


def row_of(
    question: Question, judgement: Judgement, digests: Sequence[str], *, answered_at: str
) -> tuple[Any, ...]:
    """What ``INSERT`` takes. ``digests``: of instruction, reference and output; ``answered_at`` where the judgement has none."""
    raw = None if judgement.raw_completion is None else json.dumps(judgement.raw_completion)
    return (
        question.key, *digests, question.switched, question.judge, question.prompt, question.decoding, question.draw,
        judgement.preference, raw, judgement.tokens_in, judgement.tokens_out, judgement.usd,
        judgement.model_version, judgement.answered_at or answered_at, judgement.seconds, judgement.origin,
    )  # fmt: skip


def entry_of(row: tuple[Any, ...]) -> Entry:
    """A row that ``select`` gave."""
    key, preference, raw, tokens_in, tokens_out, usd, version, answered_at, seconds, origin = row[:10]
    completion = None if raw is None else json.loads(raw)
    judgement = Judgement(
        preference, completion, tokens_in, tokens_out, usd, version, answered_at, seconds, origin
    )
    switched, judge, draw, instruction, reference, output = row[10:]
    return Entry(key, instruction, reference, output, bool(switched), judge, draw, judgement)


def text_digest(text: str) -> str:
    """Under which a text is stored once."""
    return hashlib.sha256(text.encode()).hexdigest()
