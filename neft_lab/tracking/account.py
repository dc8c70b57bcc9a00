"""Whether runs go to the W&B server or to disk, decided without importing wandb."""

from __future__ import annotations

import configparser
import netrc
import os
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from neft_lab.config import TrackerMode

Mode = Literal["disabled", "online", "offline"]

CLOUD = "https://api.wandb.ai"
CLOUD_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Names of the public service: wandb finds a login under either."""
PATIENCE = 1.5
"""Seconds that a server may take to give a first answer."""


def wanted_mode(asked: TrackerMode) -> Mode:
    """How to track; ``WANDB_MODE=disabled`` always holds, the rest of W&B's own switch decides ``auto``."""
    switched = (_setting("mode") or "").lower()
    if switched == "disabled":
        return "disabled"
    if asked is TrackerMode.auto and switched in ("online", "offline", "dryrun"):
        return "online" if switched == "online" else "offline"
    if asked is TrackerMode.auto:
        return "online" if logged_in() else "offline"
    return "online" if asked is TrackerMode.online else "offline"


def logged_in() -> bool:
    """Whether a key for the server is at hand: in the environment, or in the netrc file that ``wandb login`` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(server()).netloc
    hosts = CLOUD_HOSTS if host in CLOUD_HOSTS else (host,)
    for path in _netrc_files():
        with suppress(OSError, netrc.NetrcParseError):
            known = netrc.netrc(path).hosts
            return any(known.get(name, ("", "", ""))[2] for name in hosts)
    return False


def server() -> str:
    """Address of the W&B server in use."""
    return (_setting("base_url") or CLOUD).rstrip("/")


def reachable(address: str, *, seconds: float = PATIENCE) -> bool:
    """Whether anything at all answers under an address in time; looking up its name has no time-out of its own."""
    answered: list[bool] = []
    asking = threading.Thread(target=lambda: answered.append(_answers(address, seconds)), daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(answered and answered[0])


def _answers(address: str, seconds: float) -> bool:
    try:
        with urlopen(address, timeout=seconds):
            return True
    except HTTPError as error:  # an answer too
        error.close()
        return True
    except URLError as error:  # wandb may trust a certificate that Python does not
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False


def _setting(name: str) -> str | None:
    """One of wandb's settings as it finds them: environment, then the working folder's file, then the user's."""
    if found := os.environ.get(f"WANDB_{name.upper()}"):
        return found
    user = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
    for path in (Path("wandb") / "settings", Path(user) / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        with suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(path, encoding="utf-8")
            if found := parser.get("default", name, fallback=None):
                return found
    return None


def _netrc_files() -> list[Path]:
    if named := os.environ.get("NETRC"):
        return [Path(named).expanduser()]
    return [path for name in (".netrc", "_netrc") if (path := Path.home() / name).is_file()]
