"""No secret leaves this machine: values of key-like environment variables and passwords in addresses are cut out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SECRET_WORDS = {"apikey", "credential", "credentials", "key", "keys", "passphrase", "passwd", "password", "secret",
                "secrets", "token", "tokens"}  # fmt: skip
SHORTEST = 8
"""Characters; shorter values are switches and numbers, and cutting them out would maim ordinary text."""
LOGIN_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")
REDACTED = "[redacted]"


class Redactor:
    """Cuts secrets out of text, and out of all text within lists and mappings."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        values = {value for name, value in environment.items() if _is_secret(name) and len(value) >= SHORTEST}
        longest_first = sorted(values, key=lambda value: (-len(value), value))
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if values else None

    def text(self, text: str) -> str:
        """The text without secrets."""
        found = self._secrets.sub(REDACTED, text) if self._secrets else text
        return LOGIN_IN_ADDRESS.sub("", found)

    def value(self, value: Any) -> Any:
        """A value of JSON types without secrets, in its names too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(name): self.value(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def _is_secret(name: str) -> bool:
    return not SECRET_WORDS.isdisjoint(name.lower().split("_"))
