"""The hub by its own protocol: a local server that speaks it, and one that does not answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from neft_lab import hub
from neft_lab.config import UserError
from neft_lab.sources import Source
from neft_lab.step import resolved_revisions

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers the request for a repository's description."""

    def do_GET(self) -> None:
        known = self.path.startswith("/api/datasets/org/name")
        body = json.dumps(
            {"id": "org/name", "sha": COMMIT} if known else {"error": "Repository not found"}
        ).encode()
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import huggingface_hub

    found = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{found.server_port}"
    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint=address))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub._resolve.cache_clear()
    yield address
    hub._resolve.cache_clear()
    found.shutdown()
    found.server_close()


def test_a_null_revision_is_resolved_to_the_commit_and_told_in_the_record(server: str) -> None:
    sources = {"dataset": Source("hub", "org/name"), "model": Source("folder", "x", digest="sha256:0")}
    assert resolved_revisions(sources) == {"revisions": {"dataset": COMMIT}}


def test_an_unknown_repository_is_told_with_its_key(server: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.hub_id"):
        hub.fetch_snapshot("org/other", "dataset", None)
