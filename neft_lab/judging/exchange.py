"""The ledger in and out of AlpacaEval's annotations JSON.

python -m neft_lab.judging.exchange import results annotations.json --evaluator alpaca_eval_gpt4
python -m neft_lab.judging.exchange export results annotations.json --evaluator alpaca_eval_gpt4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neft_lab.config import UserError
from neft_lab.judging.evaluators import OPENAI_URL, Evaluator, load_evaluator
from neft_lab.judging.ledger import FOLDER, JudgementLedger
from neft_lab.judging.pairs import Pair, Row, Verdict, annotation_rows, read_preference, read_rows
from neft_lab.judging.questions import Judgement, Question, judge_name, make_request
from neft_lab.store import write_json


def import_annotations(
    ledger: JudgementLedger,
    rows: Sequence[Row],
    evaluator: Evaluator,
    *,
    model: str,
    base_url: str,
    seed: int = 0,
) -> int:
    """Take stored verdicts over, so that their pairs are not asked again; returns how many were new.

    The rows must come from this evaluator, asked with `seed`. Rows without a verdict, and pairs of equal answers, are
    left out; the dollars they cost somebody else do not count as spent.
    """
    found: list[tuple[Question, Judgement]] = []
    for row in rows:
        pair = Pair(row["instruction"], row["output_1"], row["output_2"])
        preference = read_preference(row.get("preference"))
        if preference is None or pair.identical:
            continue
        question = make_request(pair, evaluator, model=model, base_url=base_url, seed=seed).question
        judgement = Judgement(
            preference,
            row.get("raw_completion"),
            answered_at=_date(row),
            origin="imported",
        )
        found.append((question, judgement))
    known = ledger.find(question.key for question, _ in found)
    new = [(question, judgement) for question, judgement in found if question.key not in known]
    ledger.record_all(new)
    return len(new)


def _date(row: Row) -> str:
    """When a stored verdict was given, in UTC; empty where the row does not tell."""
    try:
        date = datetime.fromisoformat(str(row.get("date")))
    except ValueError:
        return ""
    return (
        (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
    )


def export_annotations(
    ledger: JudgementLedger, evaluator: Evaluator, *, model: str, base_url: str
) -> list[dict[str, Any]]:
    """Every pair this judge has a verdict on, as annotations; the first verdict is the one that counts."""
    name = judge_name(evaluator, model=model, base_url=base_url)
    first: dict[str, tuple[Pair, Verdict]] = {}
    for entry in ledger.entries(judge=name, draw=0):
        if entry.judgement.preference is not None and entry.key not in first:
            pair = Pair(entry.instruction, entry.reference, entry.output)
            first[entry.key] = pair, Verdict(entry.judgement.preference, entry.judgement.raw_completion)
    pairs, verdicts = [pair for pair, _ in first.values()], [verdict for _, verdict in first.values()]
    return annotation_rows(pairs, verdicts, annotator=evaluator.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Import or export as the command line says; 2 on the user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m neft_lab.judging.exchange", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("direction", choices=["import", "export"])
    parser.add_argument("results", help="results folder, whose ledger is meant")
    parser.add_argument("annotations", help="AlpacaEval annotations file to read or to write")
    parser.add_argument("--evaluator", required=True, help="alpaca-eval configuration of the judge")
    parser.add_argument("--model", help="model asked; default: the evaluator's")
    parser.add_argument("--base-url", help="service asked; default: the evaluator's")
    chosen = parser.parse_args(arguments)
    try:
        print(_exchange(chosen))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _exchange(chosen: argparse.Namespace) -> str:
    evaluator = load_evaluator(chosen.evaluator)
    model = chosen.model or evaluator.model
    base_url = chosen.base_url or evaluator.base_url or OPENAI_URL
    with JudgementLedger(Path(chosen.results) / FOLDER) as ledger:
        if chosen.direction == "import":
            rows = read_rows(chosen.annotations, option="annotations")
            return f"{import_annotations(ledger, rows, evaluator, model=model, base_url=base_url)} new of {len(rows)} rows"
        found = export_annotations(ledger, evaluator, model=model, base_url=base_url)
    write_json(Path(chosen.annotations), found)
    return f"{len(found)} rows written"


if __name__ == "__main__":
    sys.exit(main())
