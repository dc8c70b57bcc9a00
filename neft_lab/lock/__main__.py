"""``python -m neft_lab.lock verify|bundle``: 0 as locked, 1 something is missing or changed, 2 the user's mistake."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from neft_lab.config import UserError
from neft_lab.lock.bundle import bundle
from neft_lab.lock.verify import verify

SAME, CHANGED, MISTAKE = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        return _bundle(asked.sweep, asked.to) if asked.command == "bundle" else _verify(asked.sweep)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except OSError as error:
        print(f"error: {error.strerror or error} ({error.filename or asked.sweep})", file=sys.stderr)
        return CHANGED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m neft_lab.lock", description="Check or share a finished sweep."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (
        ("verify", "compare every file with lock.json and rebuild the tables"),
        ("bundle", "copy a sweep with its steps, without weights"),
    ):
        one = commands.add_parser(name, help=told, description=told)
        one.add_argument("sweep", type=Path, help="the sweep's folder, such as results/sweeps/alpha_grid")
    commands.choices["bundle"].add_argument(
        "--to", type=Path, required=True, help="a results folder to copy into, or a file ending in .tar.gz"
    )
    return parser


def _verify(folder: Path) -> int:
    verdict = verify(folder)
    for line in verdict.notes:
        print(line)
    for line in verdict.faults:
        print(line, file=sys.stderr)
    if verdict.faults:
        print(f"{folder}: {len(verdict.faults)} faults", file=sys.stderr)
        return CHANGED
    print(
        f"{folder}: {verdict.files} files as locked, {verdict.tables} tables rebuilt from records are the same"
    )
    return SAME


def _bundle(folder: Path, target: Path) -> int:
    faults = bundle(folder, target)
    for line in faults:
        print(line, file=sys.stderr)
    if faults:
        print(f"nothing bundled: {folder} is not as its lock says", file=sys.stderr)
        return CHANGED
    print(f"{target}: bundled; python -m neft_lab.lock verify checks it anywhere")
    return SAME


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
