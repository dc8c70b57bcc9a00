"""Imports point one way, and the command answers without the heavy libraries."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neft_lab.paths import PACKAGE_DIR

HEAVY = ("torch", "transformers", "lm_eval", "alpaca_eval", "wandb", "scipy", "matplotlib", "ray", "submitit")
FOUNDATION = {"config", "paths", "store"}
ABOVE_STAGES = {
    "run", "execute", "plan", "engines", "step", "inputs", "publish", "typeset", "paper", "tables", "claims", "budget",
    "report", "figures", "tracking", "terminal", "explain", "lock",
}  # fmt: skip
SECONDS = 20
"""Generous: about one second on a quiet machine."""


def part(path: Path) -> str:
    """The module or package directly below neft_lab that a file belongs to."""
    return path.relative_to(PACKAGE_DIR).parts[0].removesuffix(".py")


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports anywhere, functions' own imports included."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def edges() -> dict[str, set[str]]:
    """Part -> parts of neft_lab that it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE_DIR.rglob("*.py")):
        names = {name.split(".")[1] for name in imported(path) if name.startswith("neft_lab.")}
        found.setdefault(part(path), set()).update(names - {part(path)})
    return found


def at_import_time(path: Path) -> Iterator[str]:
    """Full names that a file imports as soon as it is imported itself."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


@pytest.mark.parametrize("name", sorted(FOUNDATION))
def test_the_foundation_imports_nothing_above_it(name: str) -> None:
    assert edges()[name] <= FOUNDATION


def test_stages_and_what_they_stand_on_import_nothing_above_them() -> None:
    upward = {name: found & ABOVE_STAGES for name, found in edges().items() if name not in ABOVE_STAGES}
    assert not {name: found for name, found in upward.items() if found}


def test_only_what_runs_steps_imports_stages() -> None:
    users = {name for name, found in edges().items() if "stages" in found}
    assert users <= {"plan", "step", "explain"}


def test_statistics_reads_no_files() -> None:
    readers = {
        "open",
        "read_text",
        "read_bytes",
        "write_text",
        "write_bytes",
        "read_csv",
        "read_json",
        "Path",
    }
    for path in sorted((PACKAGE_DIR / "statistics").glob("*.py")):
        called = {
            getattr(node.func, "attr", getattr(node.func, "id", ""))
            for node in nodes(path)
            if isinstance(node, ast.Call)
        }
        assert not called & readers, f"{path.name} touches files"
    assert edges()["statistics"] <= {"textstats"}


def test_tables_only_print_what_was_computed() -> None:
    paths = (PACKAGE_DIR / "tables").glob("*.py")
    names = {name.rsplit(".", 1)[-1] for path in paths for name in imported(path) if "statistics" in name}
    assert all(name[0].isupper() for name in names), f"tables computes: {sorted(names)}"


@pytest.mark.parametrize("name", ["run", "config", "store", "paths", "sources", "execute", "explain", "step", "plan",
                                  "stages", "engines", "inputs", "datasets", "prompts", "claims/results", "terminal"])  # fmt: skip
def test_light_modules_import_no_heavy_library(name: str) -> None:
    path = PACKAGE_DIR / f"{name}.py"
    paths = [path] if path.is_file() else [PACKAGE_DIR / name / "__init__.py"]
    found = {told.split(".")[0] for one in paths for told in at_import_time(one)}
    assert not found & set(HEAVY)


WATCHED = """
import json, runpy, sys
sys.argv = ["neft_lab.run", *sys.argv[1:]]
try:
    runpy.run_module("neft_lab.run", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("\\n" + json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["+sweep=alpha_grid", "dry_run=true"], ["dry_run=true"]], ids=" ".join
)
def test_help_and_plan_answer_at_once_without_heavy_libraries(arguments: list[str], tmp_path: Path) -> None:
    began = time.perf_counter()
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED, *arguments], cwd=tmp_path, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(PACKAGE_DIR.parent)},
    )  # fmt: skip
    assert time.perf_counter() - began < SECONDS
    assert "alpha_grid" in told.stdout or "run-" in told.stdout
    loaded = set(json.loads(told.stdout.splitlines()[-1]))
    assert loaded >= {"neft_lab", "hydra"}
    assert not loaded & set(HEAVY)
