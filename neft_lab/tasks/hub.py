"""Documents from the hub, or from what was cached of it before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from neft_lab.hub import TIMEOUT
from neft_lab.tasks.data_set import NoDocuments

if TYPE_CHECKING:
    from datasets import Dataset


@lru_cache(maxsize=128)
def read_hub(path: str, name: str | None) -> tuple[Mapping[str, Dataset], str | None]:
    """All splits of a data set and the commit they are of (None: the cache does not say).

    An unreachable hub is noticed once, within seconds. Raises NoDocuments where nothing is to be had.
    """
    from datasets import load_dataset

    revision = _newest_commit(path)
    try:
        with _offline(enforced=revision is None):
            splits = dict(load_dataset(path, name, revision=revision))
            return splits, revision or _cached_commit(splits)
    except (OSError, ValueError) as error:
        where = "the hub" if revision else "the hub does not answer, and its cache"
        raise NoDocuments(f"{where} gave nothing for {path}: {str(error).splitlines()[0]}") from None


def _cached_commit(splits: Mapping[str, Dataset]) -> str | None:
    """``datasets`` keeps what it prepared of a commit in a folder of that name."""
    folders = {Path(file["filename"]).parent.name for one in splits.values() for file in one.cache_files}
    commits = [name for name in folders if re.fullmatch("[0-9a-f]{40}", name)]
    return commits[0] if len(commits) == 1 else None


def _newest_commit(path: str) -> str | None:
    """None while the hub is out of reach."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not _hub_answers():
        return None
    try:
        return HfApi().dataset_info(path, timeout=TIMEOUT).sha
    except HfHubHTTPError as error:
        raise NoDocuments(f"the hub refuses {path}: {str(error).splitlines()[0]}") from None


@lru_cache(maxsize=1)
def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception:  # the transport's exceptions have no type in common, and each means: not now
        return False
    return True


@contextmanager
def _offline(*, enforced: bool) -> Iterator[None]:
    """Without this an unreachable hub is asked six times per file, with growing pauses."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or enforced
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
