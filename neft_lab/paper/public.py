"""Fetch AlpacaEval's public outputs and verdicts of the paper's models.

python -m neft_lab.paper.public DIR
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from neft_lab.plan.published import JUDGE, LAYOUTS, NAMES
from neft_lab.store import write_text

COMMIT = "cd543a149df89434d8a54582c0151c0b945c3d20"
ADDRESS = f"https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/{COMMIT}"
"""The state of the repository whose numbers are in results/paper/numbers.csv."""

TIMEOUT = 60.0


def public_files() -> Iterator[str]:
    """Paths of all files in the repository."""
    for name in NAMES.values():
        yield from (pattern.format(name=name, judge=JUDGE) for pattern in LAYOUTS[0])


def fetch_public(folder: Path, *, address: str = ADDRESS) -> list[Path]:
    """Put the files that are missing below a folder, laid out as in the repository; the ones fetched.

    Raises:
        OSError: the repository cannot be reached, or lacks a file.
    """
    missing = [path for path in public_files() if not (folder / path).is_file()]
    for path in missing:
        with urllib.request.urlopen(f"{address}/{path}", timeout=TIMEOUT) as answer:
            text = answer.read().decode("utf-8")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / path, text)
    return [folder / path for path in missing]


def main(arguments: Sequence[str]) -> int:
    """``python -m neft_lab.paper.public DIR``: 0 fetched, 1 not reachable, 2 no folder named."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m neft_lab.paper.public DIR", file=sys.stderr)
        return 2
    try:
        fetched = fetch_public(Path(arguments[0]))
    except OSError as error:  # urllib's errors are of this kind
        print(f"error: {ADDRESS} cannot be read: {error}; fetched files are kept", file=sys.stderr)
        return 1
    print(
        f"{len(fetched)} files fetched; next: python -m neft_lab.run +sweep=paper_published paper.published={arguments[0]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
