"""A hub on this machine that speaks as much of the Hugging Face hub's protocol as an upload needs."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Keeps what it is sent.

    Attributes:
        created: body of each request for a repository.
        files: content of each committed file, by name.
        tokens: every Authorization header.
        refuses: whether it answers that the token may not write.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, object]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if self.server.refuses:
            return self._answer(403, {"error": "this token may not read"})
        return self._answer(200, {"sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.server.refuses:
            return self._answer(403, {"error": "this token may not write"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.created.append(asked)
            return self._answer(200, {"url": f"{self.server.address}/me/my-clip", "name": asked["name"]})
        if self.path.endswith("/preupload/main"):
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for each in json.loads(body)["files"]]  # fmt: skip
            return self._answer(200, {"files": files})
        if "/commit/main" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            address = f"{self.server.address}/me/my-clip/commit/0"
            return self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": address})
        return self._answer(200, {})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub for the length of a block."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
