"""Libraries stay quiet: the command's own lines are all that is printed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from neft_lab.quiet import import_quietly

IMPORT = """
from neft_lab.quiet import import_quietly, quiet_libraries
quiet_libraries()
import_quietly("neft_lab.stages.train")
"""


def test_importing_the_training_says_nothing_of_wandb_being_offline() -> None:
    told = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", IMPORT], capture_output=True, text=True, check=True,
        env={**os.environ, "WANDB_MODE": "offline"},
    )  # fmt: skip
    assert (told.stdout, told.stderr) == ("", "")


def test_what_a_module_prints_later_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    import_quietly("json.tool")
    print("heard")
    assert capfd.readouterr().out == "heard\n"
