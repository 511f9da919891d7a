"""A real ComfyUI server in a folder of its own, and a client that drives it as its page does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HELPER = Path(__file__).parent / "helper_pack"
ENDS = ("execution_success", "execution_error", "execution_interrupted")
TEXT, PREVIEW = 3, 4
PATIENCE = float(os.environ.get("COMFYUI_PATIENCE", "600"))
"""Seconds a start, or silence during a run, may take; more on a busy machine."""


class Server:
    """``python main.py --cpu`` with this pack and the helper pack linked into its base folder."""

    def __init__(self, comfy: Path, base: Path, *arguments: str) -> None:
        self.base = base
        (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
        (base / "user").mkdir(exist_ok=True)
        for name, target in (("distill3d", ROOT), ("distill3d_helper", HELPER)):
            link = base / "custom_nodes" / name
            if not link.exists():
                link.symlink_to(target, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = base / "server.log"
        command = [sys.executable, str(comfy / "main.py"), "--cpu", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(base), "--database-url", f"sqlite:///{base}/user/comfyui.db"]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--preview-method", "none", *arguments]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=base, stdout=log, stderr=log, env=environment)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/system_stats")
            except OSError:
                time.sleep(0.5)
            else:
                return
        self.process.kill()
        raise RuntimeError(f"the server did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")

    def post(self, path: str, data: Any) -> tuple[int, Any]:
        body = json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)

    def memory(self) -> int:
        """Resident bytes of the server's process."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def run(self, graph: dict[str, Any], on: Callable[[Seen], None] | None = None) -> Seen:
        """Queue a graph in API format and wait for its end; ``on`` is called at every message."""
        return asyncio.run(self._run(graph, on))

    async def _run(self, graph: dict[str, Any], on: Callable[[Seen], None] | None) -> Seen:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            url = f"ws://127.0.0.1:{self.port}/ws?clientId=test"
            async with session.ws_connect(url, max_msg_size=0) as socket_:
                hello = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
                await socket_.send_str(json.dumps(hello))
                status, answer = await asyncio.to_thread(self.post, "/prompt", {"prompt": graph, "client_id": "test"})
                seen = Seen(status, answer)
                if status != 200:
                    return seen
                while not seen.end:
                    message = await socket_.receive(timeout=PATIENCE)
                    seen.add(message)
                    if on is not None:
                        await asyncio.to_thread(on, seen)
        seen.outputs = {data["node"]: data["output"] for data in seen.of("executed") if data.get("output")}
        return seen


@dataclass
class Seen:
    """What a client saw of one prompt."""

    status: int
    answer: Any
    events: list[tuple[float, str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    previews: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    end: str = ""

    def add(self, message: Any) -> None:
        if isinstance(message.data, bytes):
            kind = struct.unpack(">I", message.data[:4])[0]
            if kind == TEXT:
                length = struct.unpack(">I", message.data[4:8])[0]
                self.texts.append(message.data[8 + length :].decode())
            elif kind == PREVIEW:
                length = struct.unpack(">I", message.data[4:8])[0]
                self.previews.append((json.loads(message.data[8 : 8 + length]), message.data[8 + length :]))
            return
        event = json.loads(message.data)
        data = event["data"]
        self.events.append((time.monotonic(), event["type"], data))
        if event["type"] in ENDS and data.get("prompt_id") == self.answer["prompt_id"]:
            self.end = event["type"]

    def of(self, kind: str) -> list[Any]:
        return [data for _, name, data in self.events if name == kind]

    @property
    def ran(self) -> list[str]:
        """Ids of the nodes that were executed, in order; cached ones are not among them."""
        return [data["node"] for data in self.of("executing") if data.get("node")]

    @property
    def error(self) -> dict[str, Any]:
        return self.of("execution_error")[-1]


def checkpoints(server: Any) -> list[Path]:
    return sorted((server.base / "output").rglob("checkpoint.safetensors"), key=lambda path: path.stat().st_mtime)


def iteration(path: Path) -> int:
    """Read back without the library: the JSON in the safetensors header."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return int(json.loads(header["__metadata__"]["distill3d"])["meta"]["iteration"])
