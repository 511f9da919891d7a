"""Pictures of runs without 3D: a contact sheet of decoded latents, trajectories in the plane, curves, and a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..lettering import font
from ..methods.diagnostics import PARTS
from ..plots import COLOURS, binned, chart, stack
from ..priors.base import Prior
from ..render.pictures import to_uint8
from .latents import Distilled
from .mixture import density, distance_to_mode, modes_reached

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 5
SMOOTHED = 24
"""Stretches of a run that its curves are smoothed over."""
_BAR = 18
_PLANE = 3.2


def moments(total: int, columns: int = COLUMNS) -> list[int]:
    """The iterations a sheet shows, from 0, the start, to the last."""
    return sorted({round(total * k / (columns - 1)) for k in range(columns)}) if columns > 1 else [total]


def thinned(result: Distilled) -> Distilled:
    """``result`` with the latents that a sheet shows and no others: a large model's of every iteration fill memory."""
    kept = moments(len(result.frames))
    frames = [f if f.iteration in kept else replace(f, latents=None) for f in result.frames]
    return replace(result, frames=frames)


def sheet(
    prior: Prior, results: Sequence[Distilled], *, columns: int = COLUMNS, size: int = 128, title: str = ""
) -> Image:
    """One row a method, decoded at ``columns`` moments from start to end; a row holds the whole batch below each other.

    Every tile is labelled with its method and iteration.
    """
    from PIL import Image as Pillow

    rows = []
    for result in results:
        tiles = []
        for moment in moments(len(result.frames), columns):
            images = to_uint8(prior.decode(result.at(moment).to(prior.device)).permute(0, 2, 3, 1))
            parts = [Pillow.fromarray(i.numpy()).resize((size, size), Pillow.Resampling.BICUBIC) for i in images]
            tiles.append(_labelled(stack(parts), f"{result.method.upper()} {moment}"))
        rows.append(_beside(tiles))
    return _labelled(stack(rows), title) if title else stack(rows)


def trajectories(results: Sequence[Distilled], *, size: int = 260, columns: int = 4, title: str = "") -> Image:
    """One panel a method: the target's density, the path of every point, and where it ends."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    axis = torch.linspace(-_PLANE, _PLANE, size)
    grid = torch.stack(torch.meshgrid(axis, -axis, indexing="xy"), -1).reshape(-1, 2)
    shade = (255 - 90 * density(grid).reshape(size, size).sqrt()).to(torch.uint8)
    panels = []
    for result in results:
        panel = Pillow.fromarray(shade.numpy()).convert("RGB")
        draw = ImageDraw.Draw(panel)
        paths = torch.stack([result.at(i) for i in range(len(result.frames) + 1)]).flatten(2)
        for k in range(paths.shape[1]):
            at = [_pixel(p, size) for p in paths[:, k].tolist()]
            draw.line(at, fill=COLOURS[k % len(COLOURS)], width=1)
            x, y = at[-1]
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=COLOURS[k % len(COLOURS)], outline="black")
        panels.append(_labelled(panel, result.method.upper()))
    rows = [_beside(panels[i : i + columns]) for i in range(0, len(panels), columns)]
    return _labelled(stack(rows), title) if title else stack(rows)


def curves(
    results: Sequence[Distilled],
    errors: Mapping[str, Sequence[tuple[float, float]]],
    same_state: Mapping[str, Sequence[tuple[float, float]]],
    T: int = 1000,
) -> Image:
    """Gradient norms over the run, the classifier and generation terms, MGDA's weights where a method has them, the
    error e(t) of the results, and the gradients of all methods at one state over the timestep. What runs over
    iterations is drawn smoothed: timesteps are drawn anew each time, and with them every length jumps."""
    width = max(1, max(len(r.frames) for r in results) // SMOOTHED)
    over = f", mean of {width} iterations" if width > 1 else ""

    def lines(series: Callable[[Distilled], Sequence[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
        return {r.method.upper(): smoothed(series(r), width) for r in results}

    norms = lines(lambda r: [(f.iteration, f.norm) for f in r.frames])
    images = [chart(norms, title=f"latent gradient of a sample, L2 norm{over}", x="iteration", log=True)]
    for part in PARTS[:2]:
        terms = lines(lambda r, part=part: _series(r, f"norm/{part}"))  # type: ignore[misc]
        images.append(chart(terms, title=f"{part} term, L2 norm{over}", x="iteration", log=True))
    balance = lines(lambda r: _series(r, "lambda"))
    if any(balance.values()):
        title = f"weight of the shape (TBSD) or classifier (BSD) term{over}"
        images.append(chart(balance, title=title, x="iteration"))
    images.append(chart(errors, title="noise-prediction error e(t) of the results", x="timestep", log=True))
    alike = {name.upper(): binned(points, T) for name, points in same_state.items()}
    images.append(chart(alike, title="latent gradient at one state, published scales", x="timestep", log=True))
    return stack(images)


def smoothed(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """``(x, mean y)`` over the ``width`` points that end at each one, fewer at the beginning.

    >>> smoothed([(1, 4.0), (2, 2.0), (3, 0.0)], 2)
    [(1, 4.0), (2, 3.0), (3, 1.0)]
    """
    values = [y for _, y in points]
    return [(x, _mean(values[max(0, i + 1 - width) : i + 1])) for i, (x, _) in enumerate(points)]


def row(result: Distilled, same_state: float) -> dict[str, Any]:
    """What a table says of one method; plain JSON values."""
    frames, count = result.frames, len(result.start)
    return {
        "method": result.method,
        "evaluations_a_sample": round(sum(f.evaluations for f in frames) / (len(frames) * count), 2),
        "gradient_norm_mean": sum(f.norm for f in frames) / len(frames),
        "gradient_norm_last_quarter": _mean([f.norm for f in frames[-max(1, len(frames) // 4) :]]),
        "gradient_norm_on_one_state": same_state,
        "diagnostics_mean": _averages(result),
        "seconds": round(result.seconds, 2),
    }


def plane_row(result: Distilled) -> dict[str, Any]:
    """Where the points of the toy ended: mean distance to the nearest mode, and modes reached of three."""
    points = result.latents.flatten(1)
    return {"distance_to_mode": float(distance_to_mode(points).mean()), "modes_reached": modes_reached(points)}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A markdown table of the rows' plain numbers."""
    names = [n for n in rows[0] if not isinstance(rows[0][n], Mapping)]
    lines = ["| " + " | ".join(n.replace("_", " ") for n in names) + " |", "|" + "---|" * len(names)]
    for entry in rows:
        cells = (_cell(entry[n]) for n in names)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _series(result: Distilled, name: str) -> list[tuple[float, float]]:
    return [(f.iteration, f.diagnostics[name]) for f in result.frames if name in f.diagnostics]


def _averages(result: Distilled) -> dict[str, float]:
    names = dict.fromkeys(name for f in result.frames for name in f.diagnostics)
    return {name: _mean([v for _, v in _series(result, name)]) for name in names}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _pixel(point: Sequence[float], size: int) -> tuple[float, float]:
    x, y = ((v / _PLANE + 1) / 2 * (size - 1) for v in (point[0], -point[1]))
    far = 4 * size  # a line to a point far outside is drawn pixel by pixel
    return min(max(x, -far), far), min(max(y, -far), far)


def _beside(images: Sequence[Image]) -> Image:
    from PIL import Image as Pillow

    gap = 2
    width = sum(i.width + gap for i in images) - gap
    out = Pillow.new("RGB", (width, max(i.height for i in images)), "white")
    left = 0
    for image in images:
        out.paste(image, (left, 0))
        left += image.width + gap
    return out


def _labelled(image: Image, text: str) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw

    out = Pillow.new("RGB", (image.width, image.height + _BAR), "white")
    out.paste(image, (0, _BAR))
    ImageDraw.Draw(out).text((3, 2), text, fill="black", font=font(11, text))
    return out
