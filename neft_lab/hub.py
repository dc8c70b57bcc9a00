"""The hub, asked once and with a short time-out: an unreachable hub costs seconds, and is told in one line."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from neft_lab.config import UserError

TIMEOUT = 5.0
"""Seconds for the one request that finds out whether the hub answers."""

Kind = Literal["model", "dataset"]


def resolved_revision(repo: str, kind: Kind, revision: str | None) -> str:
    """The commit that a step used, for its record; what was asked for where the hub could not be asked."""
    return _resolve(repo, kind, revision) or revision or "from the local cache"


def fetch_snapshot(repo: str, kind: Kind, revision: str | None, *, patterns: list[str] | None = None) -> Path:
    """A repository's files in the local cache, downloaded when they are not there; the folder's name is the commit.

    Raises UserError when the hub does not answer and nothing is cached, or when it refuses.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    commit = _resolve(repo, kind, revision)
    offline = commit is None
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            repo_type=kind,
            revision=commit or revision,
            allow_patterns=patterns,
            local_files_only=offline,
        )
    except LocalEntryNotFoundError:
        raise UserError(
            f"{kind} '{repo}' is neither on this machine nor to be had: the hub does not answer; "
            f"go online, or point {kind}=local {kind}.path= at a copy"
        ) from None
    except HfHubHTTPError as error:
        raise UserError(f"the hub refuses {kind} '{repo}': {str(error).splitlines()[0]}") from None
    return Path(folder)


@lru_cache
def _resolve(repo: str, kind: Kind, revision: str | None) -> str | None:
    """The commit behind a revision; None when the hub cannot be asked."""
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return None
    try:
        info = huggingface_hub.HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=TIMEOUT)
    except GatedRepoError:
        raise UserError(
            f"{kind} '{repo}' is gated: accept its licence on the hub and log in (hf auth login)"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{kind} '{repo}' is not on the hub, or private; check {kind}.hub_id, or log in"
        ) from None
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError):
        return None
    return str(info.sha)
