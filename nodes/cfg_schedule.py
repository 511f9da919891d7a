"""CFG Schedule: the guidance scale over a run or over the diffusion timestep, drawn."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from PIL import Image, ImageDraw
from torch import Tensor

from ..distill3d.errors import SettingsError
from ..distill3d.schedules import Constant, Cosine, Linear, Piecewise, Schedule, Step
from .images import tensor_of
from .types import Plan, ScheduleType
from .words import in_words

POINTS = 65
SIZE = (384, 192)


def _ramp() -> list[Any]:
    return [
        io.Float.Input(
            "begin",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the run, or of t / T, at which the change begins, 0..1.",
        ),
        io.Float.Input(
            "until", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Share at which it ends, above begin."
        ),
    ]


class CFGSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        option = io.DynamicCombo.Option
        at = io.Float.Input(
            "at", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Share of the run, or of t / T, of the jump, 0..1."
        )
        curve = io.Curve.Input(
            "curve",
            socketless=False,
            default=[(0.0, 0.0), (1.0, 1.0)],
            tooltip="Left to right is the run, or t from clean to noise; bottom to top the way from start to end.",
        )
        return io.Schema(
            node_id="Distill3D_CFGSchedule",
            display_name="CFG Schedule",
            category="Distill3D",
            description="A guidance scale that changes over the run or over the diffusion timestep. Draws itself.",
            search_aliases=["guidance scale", "dynamic cfg", "anneal", "curve"],
            inputs=[
                io.Float.Input(
                    "start",
                    default=100.0,
                    min=-1000.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Guidance scale at the start, no unit; 1 is none. SDS on Stable Diffusion wants about 100, "
                    "ASD 7.5, the bundled tiny prior about 5.",
                ),
                io.Float.Input(
                    "end",
                    default=60.0,
                    min=-1000.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Guidance scale at the end. Lower than the start calms the surface late in the run (our "
                    "reading of arXiv 2505.19868; the end points are ours).",
                ),
                io.DynamicCombo.Input(
                    "shape",
                    options=[
                        option("linear", _ramp()),
                        option("cosine", _ramp()),
                        option("step", [at]),
                        option("constant", []),
                        option("curve", [curve]),
                    ],
                    tooltip="How start becomes end: linear, cosine (slow at both ends), step (a jump), constant (start "
                    "throughout), or a curve drawn by hand.",
                ),
                io.Combo.Input(
                    "over",
                    options=["iterations", "timesteps"],
                    default="iterations",
                    tooltip="What it runs over: the run (start is the first iteration), or the diffusion "
                    "timestep (start "
                    "is the clean end, end the noisy one; each view has its own).",
                ),
            ],
            outputs=[
                ScheduleType.Output("schedule", display_name="schedule", tooltip="For Distill Loss or FreeU Patch."),
                io.Image.Output("image", display_name="image", tooltip="The drawing."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    @in_words
    def execute(cls, start: float, end: float, shape: dict[str, Any], over: str) -> io.NodeOutput:
        schedule = make(start, end, shape)
        image = draw(schedule, over)
        return io.NodeOutput(Plan(schedule, over), image, ui=ui.PreviewImage(image, cls=cls))


def make(start: float, end: float, shape: dict[str, Any]) -> Schedule:
    """The library's schedule for the node's widgets. Raises ``SettingsError`` for a span that ends before it begins."""
    kind = shape["shape"]
    if kind == "constant":
        return Constant(start)
    if kind == "step":
        return Step(start, end, at=float(shape["at"]))
    if kind == "curve":
        from comfy_api.latest._input import CurveInput

        if shape.get("curve") is None:
            raise SettingsError("expected a curve, got none: draw one, or choose another shape")
        curve = CurveInput.from_raw(shape["curve"])
        places = [index / (POINTS - 1) for index in range(POINTS)]
        return Piecewise(tuple((x, start + (end - start) * float(curve.interp(x))) for x in places))
    begin, until = float(shape["begin"]), float(shape["until"])
    if begin >= until:
        raise SettingsError(
            f"expected begin below until, got {begin:g} and {until:g}: swap them, or choose the shape step for a jump"
        )
    return {"linear": Linear, "cosine": Cosine}[kind](start, end, begin, until)


def draw(schedule: Schedule, over: str) -> Tensor:
    """``(1, H, W, 3)`` picture of a schedule with its lowest and highest value."""
    width, height = SIZE
    left, bottom, top = 44, height - 26, 14
    values = [schedule(index / (width - left - 10)) for index in range(width - left - 9)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    image = Image.new("RGB", SIZE, (250, 250, 250))
    pen = ImageDraw.Draw(image)
    pen.line([(left, top), (left, bottom), (width - 8, bottom)], fill=(120, 120, 120))
    flat = high == low
    line = [
        (left + i, (bottom + top) / 2 if flat else bottom - (v - low) / span * (bottom - top))
        for i, v in enumerate(values)
    ]
    pen.line(line, fill=(30, 100, 200), width=2)
    pen.text((4, (bottom + top) / 2 - 6 if flat else top - 4), f"{high:g}", fill=(40, 40, 40))
    if not flat:
        pen.text((4, bottom - 8), f"{low:g}", fill=(40, 40, 40))
    pen.text((left, bottom + 6), "first iteration" if over == "iterations" else "clean (t = 0)", fill=(40, 40, 40))
    end = "last iteration" if over == "iterations" else "noise"
    pen.text((width - 10 - pen.textlength(end), bottom + 6), end, fill=(40, 40, 40))
    return tensor_of(image)
