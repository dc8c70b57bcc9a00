"""As much of a W&B server, on this machine, as it takes for wandb to finish its runs."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import serve


@dataclass
class Seen:
    """What a server was told."""

    refuses: bool = False
    """Answer every question as to a stranger."""
    silent_after: float = float("inf")
    """Number of questions after which nothing is answered any more."""
    bodies: list[bytes] = field(default_factory=list)
    accounts: set[str] = field(default_factory=set)
    """Authorization headers."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """Variables of every creation or change of a run."""
    offsets: list[tuple[str, int]] = field(default_factory=list)
    """(run, first line) of every piece of a curve that came."""
    end: threading.Event = field(default_factory=threading.Event)


@contextmanager
def wandb_server(*, refuses: bool = False, silent_after: float = float("inf")) -> Iterator[tuple[str, Seen]]:
    """Serve on a free port; yields the address and what is seen."""
    seen = Seen(refuses, silent_after)
    with serve(_Handler, seen=seen) as address:
        try:
            yield address, seen
        finally:
            seen.end.set()


class _Handler(BaseHTTPRequestHandler):
    seen: Seen
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if len(self.seen.bodies) > self.seen.silent_after:
            self.seen.end.wait()
            return
        self.seen.accounts.add(self.headers.get("Authorization", ""))
        if self.seen.refuses:
            self._answer({"errors": [{"message": "who are you?"}]}, status=401)
        elif self.path == "/graphql":
            question = json.loads(body)
            self._answer(self._graphql(question["query"], question.get("variables") or {}))
        else:
            run = self.path.split("/")[-2]
            for name, piece in json.loads(body).get("files", {}).items():
                if name == "wandb-history.jsonl":
                    self.seen.offsets.append((run, piece["offset"]))
            self._answer({})

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            self.seen.runs.append(variables)
            project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "somebody"}}
            bucket = {"id": "b", "name": variables["name"], "displayName": "", "config": "{}", "sweepName": None,
                      "historyLineCount": 0, "project": project}  # fmt: skip
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "createRunFiles" in query:
            address = f"http://127.0.0.1:{self.server.server_address[1]}/upload"
            files = [{"name": name, "uploadUrl": f"{address}/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        if "query ArtifactType" in query:
            return {"data": {"project": None}}
        if "rtifact" in query:
            return {"errors": [{"message": "no artifacts here"}]}
        viewer = {"id": "u", "username": "somebody", "entity": "somebody", "flags": "{}", "email": "",
                  "teams": {"edges": []}}  # fmt: skip
        return {"data": {"viewer": viewer, "serverInfo": {"features": []}}}

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.seen.bodies.append(body)
        return body

    def _answer(self, value: dict[str, Any], *, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
