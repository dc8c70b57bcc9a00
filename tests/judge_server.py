"""A judge service on this machine that speaks OpenAI's protocol and misbehaves on cue.

What it does to a request is written in the judged text: an output (or instruction) that contains `[[500x2]]`
gets HTTP 500 twice and then an answer, `[[garbage]]` gets nothing else for ever. Otherwise the longer of
the two answers wins, told as each kind of judge expects it.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import serve

CUE = re.compile(r"\[\[([a-z_0-9]+?)(?:x(\d+))?\]\]")
ANSWERS = (
    re.compile(r'"""(?P<instruction>.*?)""".*?"""(?P<first>.*?)""".*?"""(?P<second>.*?)"""', re.DOTALL),
    re.compile(
        r"# Task:.*## Instruction:\n(?P<instruction>.*?)\n\n#+ Output \(a\):\n(?P<first>.*?)\n\n#+ Output \(b\):\n"
        r"(?P<second>.*?)\n\n#+ Which",
        re.DOTALL,
    ),
)

Preference = Callable[[str, str, str], float]
"""(instruction, first, second) -> probability that the first one shown is better."""


def longer_is_better(instruction: str, first: str, second: str) -> float:
    return 0.9 if len(first) > len(second) else 0.1


@dataclass
class Behaviour:
    """What the server does and what it has seen."""

    prefer: Preference = longer_is_better
    latency: float = 0.0
    version: str = "judge-2024-01-01"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    """Completions sent, by request body."""
    misbehaved: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    times: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def judge_server(**behaviour: Any) -> Iterator[tuple[str, Behaviour]]:
    """Serve on a free port; yields the base URL and what is seen."""
    seen = Behaviour(**behaviour)
    with serve(_Handler, seen=seen) as address:
        yield f"{address}/v1", seen


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: Behaviour

    def log_message(self, format: str, *values: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        with self.seen.lock:
            self.seen.bodies.append(body)
            self.seen.times.append(time.monotonic())
            self.seen.in_flight += 1
            self.seen.most_in_flight = max(self.seen.most_in_flight, self.seen.in_flight)
        try:
            time.sleep(self.seen.latency)
            self._answer(body, raw.decode())
        finally:
            with self.seen.lock:
                self.seen.in_flight -= 1

    def _answer(self, body: dict[str, Any], raw: str) -> None:
        for cue, count in CUE.findall(raw):
            with self.seen.lock:
                due = not count or self.seen.misbehaved[raw + cue] < int(count)
                self.seen.misbehaved[raw + cue] += 1
            if due and getattr(self, f"_do_{cue}")(body):
                return
        with self.seen.lock:
            self.seen.served[raw] += 1
        self._send(200, json.dumps(complete(body, self.seen)))

    def _send(self, status: int, text: str, **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", headers.pop("content_type", "application/json"))
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, message: str = "sorry", code: str | None = None, **headers: str) -> bool:
        self._send(status, json.dumps({"error": {"message": message, "code": code}}), **headers)
        return True

    def _do_429(self, body: Any) -> bool:
        return self._error(429, "rate limit")

    def _do_429wait(self, body: Any) -> bool:
        return self._error(429, "rate limit", Retry_After="1")

    def _do_quota(self, body: Any) -> bool:
        return self._error(429, "no credit", code="insufficient_quota")

    def _do_500(self, body: Any) -> bool:
        return self._error(500)

    def _do_503(self, body: Any) -> bool:
        return self._error(503)

    def _do_400(self, body: Any) -> bool:
        return self._error(400, "Please reduce the length of the messages.")

    def _do_401(self, body: Any) -> bool:
        return self._error(401, "wrong key")

    def _do_echokey(self, body: Any) -> bool:
        return self._error(401, f"unknown key {self.headers['Authorization']}")

    def _do_nousage(self, body: Any) -> bool:
        response = complete(body, self.seen)
        del response["usage"]
        self._send(200, json.dumps(response))
        return True

    def _do_hang(self, body: Any) -> bool:
        time.sleep(3)
        return True

    def _do_reset(self, body: Any) -> bool:
        self.connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # close with a reset
        os.close(self.connection.detach())
        raise ConnectionResetError

    def _do_cut(self, body: Any) -> bool:
        """A complete HTTP response whose JSON stops in the middle."""
        self._send(200, json.dumps(complete(body, self.seen))[:-40])
        return True

    def _do_short(self, body: Any) -> bool:
        """Fewer bytes than announced, then the end of the connection."""
        data = json.dumps(complete(body, self.seen)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:50])
        self.close_connection = True
        return True

    def _do_html(self, body: Any) -> bool:
        self._send(200, "<html>gateway</html>", content_type="text/html")
        return True

    def _do_nothing(self, body: Any) -> bool:
        self._send(200, "")
        return True

    def _do_drip(self, body: Any) -> bool:
        """A byte at a time, each within any read time-out."""
        data = json.dumps(complete(body, self.seen)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)
        return True

    def _do_garbage(self, body: Any) -> bool:
        return self._say(body, "Both answers have their merits.")

    def _do_blank(self, body: Any) -> bool:
        return self._say(body, "")

    def _do_null(self, body: Any) -> bool:
        return self._say(body, None)

    def _do_nologprobs(self, body: Any) -> bool:
        response = complete(body, self.seen)
        response["choices"][0]["logprobs"] = None
        self._send(200, json.dumps(response))
        return True

    def _do_nochoices(self, body: Any) -> bool:
        self._send(200, json.dumps({"choices": [], "model": "x"}))
        return True

    def _say(self, body: dict[str, Any], text: str | None) -> bool:
        response = complete(body, self.seen)
        response["choices"][0] |= {"message": {"role": "assistant", "content": text}, "logprobs": None}
        self._send(200, json.dumps(response))
        return True


def complete(body: dict[str, Any], seen: Behaviour) -> dict[str, Any]:
    """A well-formed completion in the way the request asks for it: tool call, log-probabilities or text."""
    prompts = [body["messages"][-1]["content"]] if "messages" in body else body["prompt"]
    texts = [prompts] if isinstance(prompts, str) else prompts
    tokens = sum(map(len, texts)) // 4
    usage = {"prompt_tokens": tokens, "completion_tokens": 10, "total_tokens": tokens + 10}
    choices = [_choice(body, number, text, seen) for number, text in enumerate(texts)]
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": seen.version, "choices": choices, "usage": usage,
    }  # fmt: skip


def _choice(body: dict[str, Any], number: int, text: str, seen: Behaviour) -> dict[str, Any]:
    first = seen.prefer(*_shown(text))
    choice: dict[str, Any] = {"index": number, "finish_reason": "stop", "logprobs": None}
    if "prompt" in body:
        return choice | {"text": _verdict(text, first)}
    if body.get("logprobs"):
        choice["logprobs"] = _logprobs(first)
    if body.get("tools"):
        return choice | {
            "message": {"role": "assistant", "content": None, "tool_calls": [_tool_call(body, first)]}
        }
    return choice | {"message": {"role": "assistant", "content": _verdict(text, first)}}


def _shown(text: str) -> tuple[str, str, str]:
    for pattern in ANSWERS:
        found = pattern.search(text)
        if found:
            return found["instruction"], found["first"], found["second"]
    return "", text, ""


def _verdict(text: str, first: float) -> str:
    if "Output (a)" in text:
        return "Output (a)" if first > 0.5 else "Output (b)"
    if "containing only two values" in text:
        return "8 6" if first > 0.5 else "6 8"
    ranks = (1, 2) if first > 0.5 else (2, 1)
    return str([{"model": "model_1", "rank": ranks[0]}, {"model": "model_2", "rank": ranks[1]}])


def _tool_call(body: dict[str, Any], first: float) -> dict[str, Any]:
    name = body["tool_choice"]["function"]["name"]
    if name == "print_best_model":
        arguments = json.dumps({"best_output": "Output (a)" if first > 0.5 else "Output (b)"})
    else:
        small, large = ("model_1", "model_2") if name == "make_leaderboard" else ("m", "M")
        order = (small, large) if first > 0.5 else (large, small)
        arguments = json.dumps(
            {"ordered_models": [{"model": model, "rank": 1 + n} for n, model in enumerate(order)]}
        )
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def _logprobs(first: float) -> dict[str, Any]:
    tokens = [("m", first), ("M", 1 - first), ("A", first), ("B", 1 - first)]
    top = [{"token": token, "bytes": None, "logprob": math.log(max(p, 1e-30))} for token, p in tokens]
    return {"content": [{**max(top, key=lambda row: row["logprob"]), "top_logprobs": top}]}
