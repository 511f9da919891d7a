"""What a user sees of a run: progress, its text, the chart's points, and a live contact sheet.

The sheet is rendered beside the training, within a share of its time; encoding and sending happen on another thread,
and a sheet that comes while one is still being sent is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import comfy.model_management as manager
import comfy.utils
import torch
from server import PromptServer

from ...distill3d.errors import is_out_of_memory
from ...distill3d.optimize.events import Checkpointed, Event, Step, Warned
from ...distill3d.render.cameras import ring
from ...distill3d.render.pictures import to_uint8
from ...distill3d.render.volume import render
from .stop import BOARD
from .tell import tell

if TYPE_CHECKING:
    from ...distill3d.optimize import Distillation
    from ...distill3d.optimize.curves import Recorder

SHARE = 0.08
"""Largest share of a run's time that live pictures may take."""
AFTER_NO_MEMORY = 60.0
"""Seconds without live pictures after one for which there was no memory."""
TEXT_EVERY = 0.5
POINT_EVERY = 0.25
POINTS = 200
"""Most points of a chart that a resumed run begins with."""

log = logging.getLogger(__name__)


def clock(seconds: float) -> str:
    """``75`` -> ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def text_of(step: Step, pace: float) -> str:
    """The line under the node: iteration, speed, time left, occupancy, CFG, timestep window."""
    left = clock((step.iterations - step.iteration) * pace)
    rate = f"{1 / pace:.1f} it/s" if pace < 1 else f"{pace:.1f} s/it"
    scale = step.diagnostics.get("guidance")
    cfg = f" · CFG {scale:.1f}" if scale is not None else ""
    return (
        f"{step.iteration}/{step.iterations} · {rate} · {left} left · occupancy {100 * step.occupancy:.0f} %{cfg} · "
        f"t {step.timesteps[0]}-{step.timesteps[1]} · {step.resolution} px"
    )


def points_of(recorder: Recorder, iterations: int) -> list[dict[str, Any]]:
    """The chart's points of steps that were recorded before; how much of the box was occupied then is not known."""
    norms = dict(recorder.series.get("gradient_norm", ()))
    losses = recorder.series.get("loss", [])
    kept = losses[:: max(1, -(-len(losses) // POINTS))] + losses[-1:]
    return [
        {"iteration": i, "iterations": iterations, "loss": loss, "gradient": norms.get(i), "occupancy": None}
        for i, loss in dict(kept).items()
    ]


@torch.no_grad()
def live_sheet(run: Distillation, size: int = 96) -> torch.Tensor:
    """``(3 size, 4 size, 3)`` uint8: colour, normal and opacity of front, left, back and right, one render a view."""
    columns = []
    cameras = ring(4).to(run.device)
    for index in range(len(cameras)):
        white = torch.ones(3, device=run.device)
        shown = render(
            run.field,
            cameras[index : index + 1],
            size,
            size,
            background=white,
            occupancy=run.occupancy,
            settings=run.settings.render,
            normals=True,
        )
        solid = shown.opacity[..., None]
        normal = 0.5 * (shown.normal + solid) + (1 - solid) if shown.normal is not None else shown.rgb
        columns.append(torch.cat([shown.rgb[0], normal[0], solid[0].expand_as(shown.rgb[0])]))
    return to_uint8(torch.cat(columns, 1))


def workflow_of(extra: Any) -> str:
    """The id of the workflow that a page sent with a prompt; '' for a prompt without."""
    found = (extra or {}).get("workflow") if isinstance(extra or {}, dict) else None
    return str(found.get("id") or "") if isinstance(found, dict) else ""


class Watch:
    """A listener for one run. Use as a context manager around it.

    Args:
        node: the node's execution id.
        workflow: the id of the workflow it is in; '' for none.
        facts: method, prompt and the like, shown with the chart.
        place: where the run is kept, as the user knows it.
    """

    def __init__(self, node: str, iterations: int, facts: dict[str, Any], workflow: str = "", place: str = "") -> None:
        self.node, self._key, self._place = node, (workflow, node), place
        self.run: Distillation | None = None
        self._note = str(facts.get("note", ""))
        self.stopping = BOARD.begin(self._key, facts)
        self._server = PromptServer.instance
        self._client = self._server.client_id
        self._bar = comfy.utils.ProgressBar(iterations, node_id=node)
        self._pictures: queue.Queue[tuple[int, int, torch.Tensor] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._send_pictures, daemon=True, name="distill3d preview")
        self._last_text = self._last_point = float("-inf")
        self._next_sheet = self._last_step = self._began = time.monotonic()
        self._pace: float | None = None
        self._late: dict[str, Any] | None = None

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._late is not None:
                self._tell(self._late)
            if text := self._end(kind):
                self.say(text)
        finally:
            BOARD.end(self._key)
            self.run = None  # which has this as its listener: memory of the device would wait for the garbage collector
            with contextlib.suppress(queue.Full):
                self._pictures.put(None, timeout=5)
                self._thread.join(timeout=5)
        self._send("distill3d.end", {})

    def attach(self, run: Distillation, recorder: Recorder) -> None:
        """The run whose pictures are shown, and what is recorded of it already, with which the chart begins."""
        self.run = run
        self._last_step = self._began = time.monotonic()
        for point in points_of(recorder, run.settings.iterations):
            BOARD.add(self._key, point)
        if run.iteration:
            self._send("distill3d.begin", {})
        if run.iteration >= run.settings.iterations:
            self._noted("; ".join(part for part in (self._note, "finished before, nothing is left to do") if part))

    def _end(self, kind: type[BaseException] | None) -> str:
        """The last line under the node. Of an error the host speaks."""
        run = self.run
        if run is None or (kind is not None and not issubclass(kind, manager.InterruptProcessingException)):
            return ""
        done, total = run.iteration, run.settings.iterations
        kept = f" · kept in {self._place}" if self._place else ""
        if kind is None and done >= total:
            return f"{done}/{total} · done in {clock(time.monotonic() - self._began)}{kept}"
        if not done:
            return "cancelled before the first step"
        return (
            f"{'stopped' if kind is None else 'cancelled'} at {done}/{total}{kept} · the node Resume goes on from there"
        )

    def say(self, text: str) -> None:
        """The line under the node, before the first step and after the last."""
        tell(self.node, text)

    def note(self, text: str) -> None:
        """What is shown behind the chart's words, on a page that comes later too."""
        self._note = text
        self._noted(text)

    def _noted(self, text: str) -> None:
        BOARD.note(self._key, text)
        self._send("distill3d.note", {"message": text})

    def stop(self) -> bool:
        """Whether the user asked to stop and keep; raises the host's interrupt when they cancelled instead."""
        manager.throw_exception_if_processing_interrupted()
        return self.stopping.is_set()

    def show(self, sheet: torch.Tensor) -> None:
        """The last picture, as a preview like those before it: beside a result the page would show both."""
        done = self.run.iteration if self.run is not None else 0
        with contextlib.suppress(queue.Full):
            self._pictures.put((done, max(1, self._bar.total), sheet), timeout=10)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Warned):
            self._noted("; ".join(part for part in (self._note, event.message) if part))  # of warnings, the last
        elif isinstance(event, Checkpointed):
            self._send("distill3d.checkpoint", {"iteration": event.iteration})

    def _step(self, step: Step) -> None:
        now = time.monotonic()
        seconds, self._last_step = now - self._last_step, now
        self._pace = seconds if self._pace is None else 0.9 * self._pace + 0.1 * seconds
        last = step.iteration == step.iterations
        self._bar.update_absolute(step.iteration, step.iterations)
        if last or now - self._last_text >= TEXT_EVERY:
            self._last_text = now
            tell(self.node, text_of(step, self._pace))
        self._late = {
            "iteration": step.iteration,
            "iterations": step.iterations,
            "loss": _finite(step.loss),
            "gradient": _finite(step.gradient_norm),
            "occupancy": _finite(step.occupancy),
        }
        if last or now - self._last_point >= POINT_EVERY:
            self._last_point = now
            self._tell(self._late)
        if self.run is not None and now >= self._next_sheet and self._pictures.empty():
            sheet = _drawn(self.run)
            took = time.monotonic() - now
            self._next_sheet = now + (max(1.0, took / SHARE) if sheet is not None else AFTER_NO_MEMORY)
            self._last_step = time.monotonic()
            if sheet is not None:
                with contextlib.suppress(queue.Full):
                    self._pictures.put_nowait((step.iteration, step.iterations, sheet))

    def _tell(self, point: dict[str, Any]) -> None:
        """A point of the chart. The first and the last of a run are always told, those between once in a while."""
        self._late = None
        BOARD.add(self._key, point)
        self._send("distill3d.step", point)

    def _send_pictures(self) -> None:
        from PIL import Image

        while (item := self._pictures.get()) is not None:
            iteration, iterations, sheet = item
            try:
                image = Image.fromarray(sheet.numpy())
                BOARD.show(self._key, image)
                self._bar.update_absolute(iteration, iterations, ("JPEG", image, None))
            except manager.InterruptProcessingException:
                manager.interrupt_current_processing()  # the hook cleared it; the training thread has to see it
            except Exception:  # of a hook of another pack, or of a server that shuts down: the run goes on without
                log.warning("a preview could not be shown", exc_info=True)

    def _send(self, event: str, data: dict[str, Any]) -> None:
        workflow, node = self._key
        self._server.send_sync(event, {"node": node, "workflow": workflow, **data}, self._client)


def _drawn(run: Distillation) -> torch.Tensor | None:
    """The live sheet; None where there is no memory for it now, for a run is worth more than its preview."""
    try:
        return live_sheet(run)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("no memory for a preview: the run goes on without one for a while")
        return None


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
