"""In which ways a judge service fails, and which of them are worth another try."""

from __future__ import annotations

import email.utils
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LONGEST_WAIT = 600.0
"""Seconds; a service that asks for more patience is treated as asking for this much."""
ALWAYS_FATAL = (401, 402, 403, 404)
WORTH_ANOTHER_TRY = (408, 409, 425, 429)


class ServiceFailure(Exception):
    """One request without a usable response. The reason is short enough for a table."""

    def __init__(self, reason: str, detail: str = "", *, may_be_charged: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.may_be_charged = may_be_charged


class Transient(ServiceFailure):
    """Worth another try, after `retry_after` seconds if the service says so."""

    def __init__(
        self, reason: str, detail: str = "", *, retry_after: float | None = None, may_be_charged: bool = False
    ) -> None:
        super().__init__(reason, detail, may_be_charged=may_be_charged)
        self.retry_after = retry_after


class RateLimited(Transient):
    """The service is well and asks for patience."""


class Refused(ServiceFailure):
    """The service will not answer this request, however often it is asked."""


class Unusable(ServiceFailure):
    """The service will answer no request at all: wrong key, model or address, or no credit."""


class Stopped(ServiceFailure):
    """Another question found out that the service is not to be asked any more."""


def classify(error: Exception) -> ServiceFailure:
    """What an exception of the openai client, or the passing of our own deadline, means; others are raised."""
    import openai

    if isinstance(error, ServiceFailure):
        return error
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Transient("timeout", may_be_charged=True)
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error.status_code, error.response.headers, error.body, error.message)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return Transient(
            "connection", f"{type(cause).__name__}: {cause}" if cause else "", may_be_charged=True
        )
    raise error


def _classify_status(status: int, headers: Mapping[str, str], body: Any, message: str) -> ServiceFailure:
    reason, detail = f"http {status}", _without_key(" ".join(message.split()))[:300]
    if status in ALWAYS_FATAL or (isinstance(body, dict) and body.get("code") == "insufficient_quota"):
        return Unusable(reason, detail)
    if status == 429:
        return RateLimited(reason, detail, retry_after=read_retry_after(headers))
    if status in WORTH_ANOTHER_TRY or status >= 500:
        return Transient(reason, detail, retry_after=read_retry_after(headers))
    return Refused(reason, detail)


def _without_key(text: str) -> str:
    """Some services repeat the key they were sent."""
    key = os.environ.get("OPENAI_API_KEY")
    return text.replace(key, "***") if key else text


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    wait = _number(headers.get("retry-after-ms"))
    if wait is not None:
        return min(wait / 1000, LONGEST_WAIT)
    text = headers.get("retry-after")
    wait = _number(text)
    if wait is None and text:
        try:
            wait = (email.utils.parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return None if wait is None else min(max(wait, 0.0), LONGEST_WAIT)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def read_response(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first choice of a completion, and the whole response.

    Raises:
        Transient: it is no JSON, cut JSON, or JSON of another shape (`may_be_charged`).
    """
    try:
        response = json.loads(text)
    except ValueError:
        shown = text.strip()[:80]
        raise Transient("empty response" if not shown else "no JSON", shown, may_be_charged=True) from None
    choices = response.get("choices") if isinstance(response, dict) else None
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        raise Transient("no completion", text.strip()[:80], may_be_charged=True)
    choice = choices[0]
    if not isinstance(choice.get("message"), dict) and not isinstance(choice.get("text"), str):
        raise Transient("no completion", text.strip()[:80], may_be_charged=True)
    return choice, response
