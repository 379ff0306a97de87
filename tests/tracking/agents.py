"""Weights & Biases' server with its sweeps: takes a sweep's YAML, and hands the cells of its grid to agents."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from tests.tracking.server import Handler, Json, Server


class SweepServer(Server):
    """Grid search as the real one does it; keeps what each run said of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = SweepHandler
        self.sweep: Json = {}
        self.waiting: list[Json] = []
        self.runs: dict[str, Json] = {}
        self.histories: dict[str, list[Json]] = {}

    def take(self, config: str) -> None:
        self.sweep = yaml.safe_load(config)
        keys = list(self.sweep["parameters"])
        grid = itertools.product(*(self.sweep["parameters"][key]["values"] for key in keys))
        for number, values in enumerate(grid):
            arguments = {key: {"value": value} for key, value in zip(keys, values, strict=True)}
            command = {"type": "run", "id": f"c{number}", "run_id": f"given{number}", "args": arguments}
            self.waiting.append(command | {"program": self.sweep["program"]})


class SweepHandler(Handler):
    server: SweepServer

    def answer(self, operation: str, variables: Json) -> Json:
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        if operation == "UpsertSweep":
            self.server.take(variables["config"])
            return {"upsertSweep": {"sweep": {"name": "swept", "project": project}, "configValidationWarnings": []}}
        if operation == "SweepWithRuns":
            sweep = {"id": "s", "name": "swept", "config": yaml.safe_dump(self.server.sweep), "runs": {"edges": []}}
            return {"project": {"sweep": sweep}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if operation == "Heartbeat":
            is_busy = any(json.loads(variables["runState"]).values())
            commands = [self.server.waiting.pop(0)] if self.server.waiting and not is_busy else []
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
        if operation == "UpsertBucket" and variables.get("name"):
            self.server.runs.setdefault(variables["name"], {}).update({k: v for k, v in variables.items() if v})
        return super().answer(operation, variables)

    def file_stream(self, request: Json) -> None:
        run = self.path.split("/")[-2]
        if history := (request.get("files") or {}).get("wandb-history.jsonl"):
            self.server.histories.setdefault(run, []).extend(json.loads(line) for line in history["content"])
        super().file_stream(request)


@contextmanager
def serving_sweeps() -> Iterator[SweepServer]:
    """The server, until the end of the block."""
    with SweepServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()


def settings_of(run: Json) -> dict[str, Any]:
    """The configuration that a run told."""
    return {key: value["value"] for key, value in json.loads(run["config"]).items() if key != "_wandb"}
