"""Stop & keep: a button's request, kept by node until the run that it is meant for reads it."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import Any

_KEEP = 8


Key = tuple[str, str]
"""Workflow and node: copies of a workflow have nodes of the same ids. A prompt from elsewhere has no workflow, ''."""


class Board:
    """Runs in progress and their last points; safe from the server's thread and the executor's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: dict[Key, threading.Event] = {}
        self._points: OrderedDict[Key, dict[str, Any]] = OrderedDict()
        self._pictures: dict[Key, Any] = {}

    def begin(self, key: Key, facts: dict[str, Any]) -> threading.Event:
        """A new run of a node; the event is set when its user wants to stop and keep what there is."""
        with self._lock:
            self._stops[key] = threading.Event()
            self._points.pop(key, None)
            self._points[key] = {**facts, "running": True, "points": []}
            self._pictures.pop(key, None)
            while len(self._points) > _KEEP:
                self._pictures.pop(self._points.popitem(last=False)[0], None)
            return self._stops[key]

    def note(self, key: Key, text: str) -> None:
        """Replace the note among the facts of a run."""
        with self._lock:
            if key in self._points:
                self._points[key]["note"] = text

    def end(self, key: Key) -> None:
        with self._lock:
            self._stops.pop(key, None)
            if key in self._points:
                self._points[key]["running"] = False

    def _known(self, node: str, workflow: str) -> Key:
        """The run that is meant; who names no workflow means the last run of a node of that id."""
        runs = [key for key in self._points if key[1] == node and not workflow]
        return runs[-1] if runs else (workflow, node)

    def stop(self, node: str, workflow: str = "") -> bool:
        """Ask the run of ``node`` to finish; False when it has none."""
        with self._lock:
            event = self._stops.get(self._known(node, workflow))
            if event is not None:
                event.set()
            return event is not None

    def add(self, key: Key, point: dict[str, Any]) -> None:
        """Keep a point of the chart; every second one is dropped when there are many."""
        with self._lock:
            if key not in self._points:
                return
            points = self._points[key]["points"]
            points.append(point)
            if len(points) > 600:
                self._points[key]["points"] = points[::2]

    def show(self, key: Key, picture: Any) -> None:
        """Keep the latest picture of a run, for a page that is loaded after it."""
        with self._lock:
            if key in self._points:
                self._pictures[key] = picture

    def picture(self, node: str, workflow: str = "") -> bytes:
        """The latest picture of ``node`` as JPEG; empty for none."""
        with self._lock:
            found = self._pictures.get(self._known(node, workflow))
        buffer = io.BytesIO()
        if found is not None:
            found.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    def history(self, node: str, workflow: str = "") -> dict[str, Any]:
        """Facts and points of the last run of ``node``, and whether it has a picture; empty for none."""
        with self._lock:
            key = self._known(node, workflow)
            found = self._points.get(key)
            return {**found, "points": list(found["points"]), "picture": key in self._pictures} if found else {}


BOARD = Board()


def add_routes(server: Any) -> None:
    """``POST /distill3d/stop``, ``GET /distill3d/history`` and ``GET /distill3d/picture`` on the host's server."""
    from aiohttp import web

    def asked(values: Any) -> tuple[str, str]:
        return str(values.get("node", "")), str(values.get("workflow", ""))

    @server.routes.post("/distill3d/stop")
    async def stop(request: Any) -> Any:
        found = BOARD.stop(*asked(await request.json()))
        return web.json_response({"stopping": found}, status=200 if found else 404)

    @server.routes.get("/distill3d/history")
    async def history(request: Any) -> Any:
        return web.json_response(BOARD.history(*asked(request.query)))

    @server.routes.get("/distill3d/picture")
    async def picture(request: Any) -> Any:
        found = BOARD.picture(*asked(request.query))
        headers = {"Cache-Control": "no-store"}
        return web.Response(status=200 if found else 404, body=found, content_type="image/jpeg", headers=headers)
