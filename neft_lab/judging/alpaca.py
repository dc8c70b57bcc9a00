"""The one place that imports alpaca_eval, without what its import does to the process.

On import it reads a `.env` file into the environment, sets the root logger to INFO, needs `pkg_resources`,
which new versions of setuptools lack, and takes its defaults from the environment. Its parsers log every
text they cannot read; a judge's failures are ours to count and to show.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any


@cache
def parsers() -> Any:
    """The module alpaca_eval.completion_parsers, quiet."""
    with _unchanged_process():
        from alpaca_eval import completion_parsers
    quiet = logging.getLogger("neft_lab.alpaca_eval")
    quiet.setLevel(logging.CRITICAL + 1)
    # it logs through the functions of the module, which a logger has as methods
    completion_parsers.logging = quiet
    return completion_parsers


@contextmanager
def _unchanged_process() -> Iterator[None]:
    environment, level = dict(os.environ), logging.getLogger().level
    os.environ["IS_ALPACA_EVAL_2"] = "False"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _stand_in_for_pkg_resources()
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        logging.getLogger().setLevel(level)


def _stand_in_for_pkg_resources() -> None:
    """The two functions that alpaca_eval uses, where setuptools no longer brings them."""
    try:
        import pkg_resources  # noqa: F401
    except ImportError:
        from packaging.version import parse

        module: Any = ModuleType("pkg_resources")
        module.get_distribution = lambda name: SimpleNamespace(version=importlib.metadata.version(name))
        module.parse_version = parse
        sys.modules["pkg_resources"] = module
