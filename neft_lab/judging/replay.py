"""The file judge: verdicts that somebody stored in AlpacaEval's annotations format."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from neft_lab.config import UserError
from neft_lab.judging.pairs import DRAW, Pair, Row, Verdict, read_preference

Parser = Callable[[Row], float | None]
"""From a stored annotation to the preference its raw completion stands for."""


def replay(
    outputs: Sequence[Row], annotations: Sequence[Row], *, parse: Parser | None = None
) -> tuple[list[Pair], list[Verdict]]:
    """Stored verdicts on the outputs, in their order; the annotations bring the reference answers along.

    A verdict counts only where instruction and answer are both equal to what was judged. Rows whose stored
    preference is null become holes. With `parse`, preferences are read anew from the raw completions.

    Raises:
        UserError: an output that was never judged.
    """
    stored: dict[tuple[str, str], deque[Row]] = defaultdict(deque)
    for row in annotations:
        stored[row["instruction"], row["output_2"]].append(row)
    pairs, verdicts = [], []
    for output in outputs:
        matches = stored[output["instruction"], output["output"]]
        if not matches:
            raise UserError(_unjudged(output, annotations))
        row = matches.popleft()
        pairs.append(_pair(row, output))
        verdicts.append(_verdict(row, pairs[-1], parse))
    return pairs, verdicts


def look_up(
    pairs: Sequence[Pair], annotations: Sequence[Row], *, parse: Parser | None = None
) -> list[Verdict]:
    """Verdicts that the annotations hold on pairs, equal in all three texts; a hole where they hold none."""
    stored = {(row["instruction"], row["output_1"], row["output_2"]): row for row in annotations}
    keys = [(pair.instruction, pair.reference, pair.output) for pair in pairs]
    return [
        _verdict(stored[key], pair, parse) if key in stored else Verdict(None, hole="not in the file")
        for key, pair in zip(keys, pairs, strict=True)
    ]


def raw_parser(evaluator: str, *, seed: int) -> Parser:
    """Reads a stored raw completion as the evaluator does, with the order in which the pair was shown."""
    from neft_lab.judging.evaluators import load_evaluator

    judge = load_evaluator(evaluator)

    def parse(row: Row) -> float | None:
        completion = row.get("raw_completion")
        if completion is None:
            return None
        return judge.parse(completion, switched=judge.switched(row["instruction"], seed=seed))

    return parse


def _unjudged(output: Row, annotations: Sequence[Row]) -> str:
    known = any(row["instruction"] == output["instruction"] for row in annotations)
    shown = repr(output["instruction"][:60])
    if known:
        return (
            f"judge.annotations judges another answer to {shown} than generation.outputs has; "
            "both files must come from the same model"
        )
    return f"judge.annotations holds no verdict on {shown}, which generation.outputs contains"


def _pair(row: Row, output: Row) -> Pair:
    return Pair(
        instruction=row["instruction"],
        reference=row["output_1"],
        output=row["output_2"],
        reference_generator=row.get("generator_1") or "reference",
        generator=output.get("generator") or row.get("generator_2") or "model",
        dataset=row.get("dataset"),
    )


def _verdict(row: Row, pair: Pair, parse: Parser | None) -> Verdict:
    if pair.identical:
        return DRAW
    raw: Any = row.get("raw_completion")
    preference = read_preference(row.get("preference")) if parse is None else parse(row)
    return Verdict(preference, raw, None if preference is not None else "no verdict in the file")
