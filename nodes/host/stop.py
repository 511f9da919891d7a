"""Stop & keep: a button's request, kept by node until the run that it is meant for reads it."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import Any

_KEEP = 8


class Board:
    """Runs in progress and their last points, by node; safe from the server's thread and the executor's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}
        self._points: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._pictures: dict[str, Any] = {}

    def begin(self, node: str, facts: dict[str, Any]) -> threading.Event:
        """A new run of ``node``; the event is set when its user wants to stop and keep what there is."""
        with self._lock:
            self._stops[node] = threading.Event()
            self._points.pop(node, None)
            self._points[node] = {**facts, "running": True, "points": []}
            self._pictures.pop(node, None)
            while len(self._points) > _KEEP:
                self._pictures.pop(self._points.popitem(last=False)[0], None)
            return self._stops[node]

    def note(self, node: str, text: str) -> None:
        """Replace the note among the facts of ``node``."""
        with self._lock:
            if node in self._points:
                self._points[node]["note"] = text

    def end(self, node: str) -> None:
        with self._lock:
            self._stops.pop(node, None)
            if node in self._points:
                self._points[node]["running"] = False

    def _known(self, node: str) -> str:
        """``node``, or the one run whose node has that id within a subgraph: a page may not know the whole path."""
        inner = [key for key in self._points if key.rsplit(":", 1)[-1] == node]
        return inner[0] if node not in self._points and len(inner) == 1 else node

    def stop(self, node: str) -> bool:
        """Ask the run of ``node`` to finish; False when it has none."""
        with self._lock:
            event = self._stops.get(self._known(node))
            if event is not None:
                event.set()
            return event is not None

    def add(self, node: str, point: dict[str, Any]) -> None:
        """Keep a point of the chart; every second one is dropped when there are many."""
        with self._lock:
            if node not in self._points:
                return
            points = self._points[node]["points"]
            points.append(point)
            if len(points) > 600:
                self._points[node]["points"] = points[::2]

    def show(self, node: str, picture: Any) -> None:
        """Keep the latest picture of a run, for a page that is loaded after it."""
        with self._lock:
            if node in self._points:
                self._pictures[node] = picture

    def picture(self, node: str) -> bytes:
        """The latest picture of ``node`` as JPEG; empty for none."""
        with self._lock:
            found = self._pictures.get(self._known(node))
        buffer = io.BytesIO()
        if found is not None:
            found.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    def history(self, node: str) -> dict[str, Any]:
        """Facts and points of the last run of ``node``, and whether it has a picture; empty for none."""
        with self._lock:
            node = self._known(node)
            found = self._points.get(node)
            return {**found, "points": list(found["points"]), "picture": node in self._pictures} if found else {}


BOARD = Board()


def add_routes(server: Any) -> None:
    """``POST /distill3d/stop``, ``GET /distill3d/history`` and ``GET /distill3d/picture`` on the host's server."""
    from aiohttp import web

    @server.routes.post("/distill3d/stop")
    async def stop(request: Any) -> Any:
        body = await request.json()
        found = BOARD.stop(str(body.get("node", "")))
        return web.json_response({"stopping": found}, status=200 if found else 404)

    @server.routes.get("/distill3d/history")
    async def history(request: Any) -> Any:
        return web.json_response(BOARD.history(request.query.get("node", "")))

    @server.routes.get("/distill3d/picture")
    async def picture(request: Any) -> Any:
        found = BOARD.picture(request.query.get("node", ""))
        headers = {"Cache-Control": "no-store"}
        return web.Response(status=200 if found else 404, body=found, content_type="image/jpeg", headers=headers)
