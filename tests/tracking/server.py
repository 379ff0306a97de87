"""As much of Weights & Biases' server as its client needs to upload a run, on the loopback."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


class Server(ThreadingHTTPServer):
    """Keeps the history of one run by line, as the real one does, and which artifacts it made and used.

    ``status`` other than 200 refuses everything; ``stall`` names GraphQL operations, or `upload`, that get no answer.
    """

    daemon_threads = True

    def __init__(self, status: int = 200, stall: tuple[str, ...] = ()) -> None:
        self.status, self.stall = status, stall
        self.lines: dict[int, Json] = {}
        self.summary: Json = {}
        self.operations: list[str] = []
        self.committed: list[str] = []
        self.used: list[str] = []
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def points(self, metric: str) -> list[tuple[int, Any]]:
        rows = [self.lines[number] for number in sorted(self.lines)]
        return [(row["step"], row[metric]) for row in rows if metric in row]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: the client hangs up as it likes."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/graphql":
            self.graphql(json.loads(body))
        elif self.path.endswith("/file_stream"):
            self.file_stream(json.loads(body))
        else:
            self.reply({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.reply({})

    def graphql(self, request: Json) -> None:
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        operation = found[1] if found else ""
        self.server.operations.append(operation)
        if operation in self.server.stall:
            self.server.over.wait(30)
        elif self.server.status != 200:
            self.reply({"errors": [{"message": "permission denied \x1b[31m"}]}, self.server.status)
        else:
            self.reply({"data": self.answer(operation, request.get("variables") or {})})

    def answer(self, operation: str, variables: Json) -> Json:
        name = variables.get("name") or "a"
        bucket = {"id": "x", "name": name, "displayName": name, "project": {"name": "p", "entity": {"name": "e"}}}
        if operation == "UpsertBucket":
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "RunResumeStatus":
            return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}, "bucket": self.resumable()}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.server.address}/up"} for name in variables.get("files", [])]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if operation == "Viewer":
            teams: Json = {"edges": []}
            return {"viewer": {"id": "u", "entity": "e", "username": "u", "email": "", "flags": "{}", "teams": teams}}
        return self.artifact_answer(operation, variables)

    def artifact_answer(self, operation: str, variables: Json) -> Json:
        """An artifact's id is its name."""
        wanted = variables.get("input") or variables
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "CreateArtifact":
            made = {"id": wanted["artifactCollectionName"], "digest": wanted["digest"], "state": "PENDING"}
            return {"createArtifact": {"artifact": made | {"artifactSequence": {"id": "s", "latestArtifact": None}}}}
        if operation == "CreateArtifactManifest":
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": self.upload("m", "")}}}
        if operation == "CreateArtifactFiles":
            files = [{"node": self.upload(file["name"], file["artifactID"])} for file in wanted["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": files}}}
        if operation == "CommitArtifact":
            self.server.committed.append(wanted["artifactID"])
            return {"commitArtifact": {"artifact": {"id": wanted["artifactID"], "digest": "d"}}}
        if operation == "UseArtifact":
            self.server.used.append(wanted["artifactID"])
            return {"useArtifact": {"artifact": {"id": wanted["artifactID"]}}}
        return {}

    def upload(self, name: str, artifact: str) -> Json:
        """Where a file may be put; the client crashes on an answer without one of these."""
        place = {"uploadUrl": f"{self.server.address}/up", "uploadHeaders": [], "uploadMultipartUrls": None}
        file = {"id": name, "name": name, "displayName": name, "storagePath": None}
        return file | place | {"artifact": {"id": artifact}}

    def resumable(self) -> Json | None:
        lines = self.server.lines
        if not lines:
            return None
        return {
            "id": "x",
            "name": "a",
            "displayName": "a",
            "tags": [],
            "config": "{}",
            "wandbConfig": '{"t": 1}',
            "logLineCount": 0,
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "historyLineCount": len(lines),
            "historyTail": json.dumps([json.dumps(lines[max(lines)])]),
            "summaryMetrics": json.dumps(self.server.summary),
        }

    def file_stream(self, request: Json) -> None:
        if "upload" in self.server.stall:
            self.server.over.wait(30)
            return
        files = request.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            rows = enumerate(history["content"], start=history["offset"])
            self.server.lines |= {number: json.loads(line) for number, line in rows}
        if summary := files.get("wandb-summary.json"):
            self.server.summary = json.loads(summary["content"][-1])
        self.reply({})

    def reply(self, answer: Json, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(status: int = 200, stall: tuple[str, ...] = ()) -> Iterator[Server]:
    """The server, until the end of the block; whoever still waits for an answer is let go."""
    import wandb

    with Server(status, stall) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.over.set()
            wandb.teardown()
            server.shutdown()
