"""A hub of data sets on this machine: it speaks the hub's protocol over files that a test gives it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class DataSetHub(BaseHTTPRequestHandler):
    """``sets``: files by name for each repository. ``asked``: the paths of all requests."""

    protocol_version = "HTTP/1.1"
    sets: Mapping[str, Mapping[str, bytes]]
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        repository, files = self._repository(urlsplit(self.path).path)
        listed = [_entry(name, files[name]) for name in wanted if files and name in files]
        self._send(200 if repository else 404, json.dumps(listed).encode())

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        repository, files = self._repository(path)
        if path == "/":
            self._send(200, b"", body=body)
        elif repository is None or files is None:
            self._send(404, b'{"error": "Repository not found"}', body=body, code="RepoNotFound")
        elif "/resolve/" in path:
            self._send_file(files.get(path.partition(f"/resolve/{COMMIT}/")[2]), body=body)
        elif "/tree/" in path:
            folder = path.partition(f"/tree/{COMMIT}")[2].strip("/")
            self._send(200, json.dumps(_entries(files, folder)).encode(), body=body)
        else:
            siblings = [{"rfilename": name} for name in files]
            told = {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            self._send(200, json.dumps(told).encode(), body=body)

    def _repository(self, path: str) -> tuple[str | None, Mapping[str, bytes] | None]:
        name = "/".join(path.removeprefix("/api").removeprefix("/datasets/").split("/")[:2])
        return (name, self.sets[name]) if name in self.sets else (None, None)

    def _send_file(self, content: bytes | None, *, body: bool) -> None:
        if content is None:
            self._send(404, b"", body=body, code="EntryNotFound")
        else:
            self._send(200, content, body=body, ETag=f'"{_digest(content)}"', **{"X-Repo-Commit": COMMIT})

    def _send(
        self, status: int, content: bytes, *, body: bool = True, code: str = "", **headers: str
    ) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def _entries(files: Mapping[str, bytes], folder: str) -> list[dict[str, Any]]:
    """What lies directly in a folder ('' is the top), files and folders."""
    prefix = f"{folder}/" if folder else ""
    below = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
    folders = dict.fromkeys(rest.partition("/")[0] for rest in below if "/" in rest)
    listed = [{"type": "directory", "path": prefix + one, "size": 0, "oid": "0" * 40} for one in folders]
    return listed + [_entry(prefix + one, files[prefix + one]) for one in below if "/" not in one]


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
