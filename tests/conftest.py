"""Fixtures: a tiny random Llama with a real tokenizer, in a folder as a user would have it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# one fork server for all tests, warm: whoever starts it first decides what it has imported
multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.warm"])


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama (about 60,000 parameters) and a byte-level BPE tokenizer."""
    from tests.tiny import make_tiny_llama

    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests neither read nor write the user's cache of digests."""
    monkeypatch.setenv("NEFT_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    yield


@pytest.fixture
def wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder without a login, and an environment in which wandb writes to disk."""
    from tests.tracking_cases import nobody_logged_in

    with nobody_logged_in(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An empty results folder."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder
