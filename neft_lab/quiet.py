"""Libraries that print bars and warnings of their own are told to be quiet: the command shows one line per step."""

from __future__ import annotations

import importlib
import io
import logging
import os
from contextlib import redirect_stdout
from types import ModuleType


def quiet_libraries() -> None:
    """Silence what is not an error; called before a stage is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("bitsandbytes", "httpx", "huggingface_hub", "datasets", "lm_eval", "openai"):
        logging.getLogger(name).setLevel(logging.ERROR)


def import_quietly(module: str) -> ModuleType:
    """Import a module; what libraries print meanwhile (transformers: that W&B is offline) is nobody's news."""
    with redirect_stdout(io.StringIO()):
        return importlib.import_module(module)


def quiet_transformers() -> None:
    """The same for transformers, once it is imported."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
