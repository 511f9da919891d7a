"""Line charts as PIL images: schedules, gradient norms, errors over timesteps. No plotting package is needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .lettering import font

if TYPE_CHECKING:
    from PIL.Image import Image

Points = Sequence[tuple[float, float]]
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
_SCALE = 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 26, 36


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within ``[low, high]``, about ``count`` of them.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    step = (high - low) / max(count, 1)
    if not (math.isfinite(step) and step > 0):
        return [low]
    size = 10.0 ** math.floor(math.log10(step))
    step = next(f * size for f in (1, 2, 5, 10) if f * size >= step * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def binned(points: Points, end: float, bins: int = 20) -> list[tuple[float, float]]:
    """``(middle of a bin, mean y)`` of the points with x in ``[0, end]``; empty bins are left out.

    >>> binned([(10, 1.0), (40, 3.0), (999, 7.0)], 1000)
    [(25.0, 2.0), (975.0, 7.0)]
    """
    found: dict[int, list[float]] = {}
    for x, y in points:
        found.setdefault(min(int(x * bins / end), bins - 1), []).append(y)
    return [((b + 0.5) * end / bins, sum(values) / len(values)) for b, values in sorted(found.items())]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Logarithms, base 10, of round numbers within ``[low, high]``: 1, 2 and 5 of every decade, or as few as needed.

    >>> [10**v for v in log_ticks(0.0, 1.0)]
    [1.0, 2.0, 5.0, 10.0]
    """
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [d + math.log10(f) for d in decades for f in factors]
        inside = [v for v in values if low - 1e-9 <= v <= high + 1e-9]
        if 2 <= len(inside) <= most:
            return inside
    return ticks(low, high)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    return low, high


def chart(
    lines: Mapping[str, Points],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    size: tuple[int, int] = (560, 300),
    log: bool = False,
) -> Image:
    """A chart of one line a label, with axes, ticks and a legend: beside the chart, or above it for a single line.

    Args:
        lines: label -> ``(x, y)`` points; those not finite, or not above 0 on a logarithmic axis, are left out. A label
            without points keeps its colour from the others and is not in the legend.
        size: width and height in pixels.
        log: whether y is logarithmic.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    shown = {name: _usable(points, log) for name, points in lines.items()}
    width, height = (v * _SCALE for v in size)
    image = Pillow.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    everything = [p for points in shown.values() for p in points]
    beside = _legend_width(draw, shown) if len(shown) > 1 else 0
    box = (_LEFT * _SCALE, _TOP * _SCALE, width - _RIGHT * _SCALE - beside, height - _BOTTOM * _SCALE)
    if not everything:
        draw.text((box[0], box[1]), "nothing to show", fill="black", font=_font(11))
        return image.resize(size, Pillow.Resampling.LANCZOS)
    x_range = _bounds([px for px, _ in everything])
    y_range = _bounds([py for _, py in everything])
    _axes(draw, box, x_range, y_range, log)
    for colour, points in zip(_cycle(len(shown)), shown.values(), strict=True):
        at = [_place(box, x_range, y_range, p) for p in points]
        if len(at) > 1:
            draw.line(at, fill=colour, width=2 * _SCALE, joint="curve")
        elif at:
            draw.ellipse([at[0][0] - 4, at[0][1] - 4, at[0][0] + 4, at[0][1] + 4], fill=colour)
    if len(shown) > 1 or draw.textlength(title, font=_font(12, title)) + _legend_width(draw, shown) < box[2] - box[0]:
        _legend(draw, box, list(shown), [bool(points) for points in shown.values()])
    draw.text((box[0], 6 * _SCALE), title, fill="black", font=_font(12, title))
    draw.text(((box[0] + box[2]) // 2, height - 4 * _SCALE), x, fill="black", font=_font(10), anchor="mb")
    if y:
        label = Pillow.new("RGBA", (height, 16 * _SCALE), (0, 0, 0, 0))
        ImageDraw.Draw(label).text((height // 2, 2), y, fill="black", font=_font(10), anchor="mt")
        turned = label.rotate(90, expand=True)
        image.paste(turned, (0, 0), turned)
    return image.resize(size, Pillow.Resampling.LANCZOS)


def stack(images: Sequence[Image]) -> Image:
    """Images below each other on white."""
    from PIL import Image as Pillow

    out = Pillow.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        out.paste(image, (0, top))
        top += image.height
    return out


def _usable(points: Points, log: bool) -> list[tuple[float, float]]:
    finite = [(float(a), float(b)) for a, b in points if math.isfinite(a) and math.isfinite(b)]
    return [(a, math.log10(b)) for a, b in finite if b > 0] if log else finite


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _place(box: Any, x_range: Any, y_range: Any, point: tuple[float, float]) -> tuple[float, float]:
    left, top, right, bottom = box
    u = (point[0] - x_range[0]) / (x_range[1] - x_range[0])
    v = (point[1] - y_range[0]) / (y_range[1] - y_range[0])
    return left + u * (right - left), bottom - v * (bottom - top)


def _axes(draw: Any, box: Any, x_range: Any, y_range: Any, log: bool) -> None:
    grey = "#dddddd"
    for value in ticks(*x_range):
        px, _ = _place(box, x_range, y_range, (value, y_range[0]))
        draw.line([(px, box[1]), (px, box[3])], fill=grey, width=_SCALE)
        draw.text((px, box[3] + 4), f"{value:g}", fill="black", font=_font(9), anchor="mt")
    for value in log_ticks(*y_range) if log else ticks(*y_range):
        _, py = _place(box, x_range, y_range, (x_range[0], value))
        draw.line([(box[0], py), (box[2], py)], fill=grey, width=_SCALE)
        text = f"{10**value:.3g}" if log else f"{value:g}"
        draw.text((box[0] - 6, py), text, fill="black", font=_font(9), anchor="rm")
    draw.rectangle(box, outline="#888888", width=_SCALE)


def _legend_width(draw: Any, names: Iterable[str]) -> int:
    longest: float = max(draw.textlength(name, font=_font(9, name)) for name in names)
    return math.ceil(longest) + 22 * _SCALE


def _legend(draw: Any, box: Any, names: Sequence[str], drawn: Sequence[bool]) -> None:
    row = 13 * _SCALE
    single = len(names) == 1
    left = box[2] - _legend_width(draw, names) if single else box[2]
    kept = itertools.compress(zip(names, _cycle(len(names)), strict=True), drawn)
    for i, (name, colour) in enumerate(kept):
        y = 8 * _SCALE if single else box[1] + i * row
        line = y + 5 * _SCALE
        draw.line([(left + 6 * _SCALE, line), (left + 18 * _SCALE, line)], fill=colour, width=3 * _SCALE)
        draw.text((left + 22 * _SCALE, y), name, fill="black", font=_font(9, name))


def _font(points: int, text: str = "") -> Any:
    return font(points * _SCALE, text)
