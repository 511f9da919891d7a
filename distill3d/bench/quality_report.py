"""What the quality benchmark shows: a Markdown table, and a contact sheet for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate import world_of
from ..files import write_bytes
from ..lettering import font
from ..render.pictures import write_png
from ..scorer import CORPUS
from .quality_job import PREVIEW
from .quality_summary import NO_VERDICT, Result, order, summarise

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["markdown", "method_sheet", "summarise", "write_report"]

_INK, _GOOD, _BAD, _PAPER = (25, 25, 25), (0, 120, 50), (180, 20, 20), (255, 255, 255)
_LABEL_WIDTH = 210
BAR = r"\|"
"""A bar inside a cell."""


def _cell(lines: Sequence[Mapping[str, Any]]) -> str:
    """One prompt under one method, over its seeds."""
    if not lines:
        return ""
    parts = []
    for line in lines:
        if line["passed"]:
            parts.append(f"pass ({line['iou']:.2f})")
        elif line["status"] != "judged":
            parts.append(line["failures"][0].split(":")[0])
        else:
            why = ", ".join(f.split(":")[0] for f in line["failures"])
            parts.append(f"fail: {why} ({line['iou']:.2f})")
    return "<br>".join(parts)


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = (f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |" for row in rows)
    return [head, f"|{'---|' * len(rows[0])}", *body]


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


_ROWS = (
    ("mean IoU", "iou", ".2f"),
    ("Chamfer, share of the box", "chamfer", ".4f"),
    ("Chamfer without thin parts", "chamfer_solid", ".4f"),
    ("normals agree", "normal_consistency", ".2f"),
    ("roughness, degrees", "roughness", ".1f"),
    ("spots, worst view", "spots", ".1%"),
    ("shape right", "shape_right", ".0%"),
    ("hue right", "hue_right", ".0%"),
    ("one front, where it should be", "one_front", ".0%"),
    ("Janus rate", "janus", ".0%"),
    ("Sim", "sim", ".3f"),
    ("Sim of the true objects", "true_sim", ".3f"),
    ("R@1", "r_at_1", ".0%"),
    ("R@1 of the true objects", "true_r_at_1", ".0%"),
    ("mean minutes", "minutes", ".1f"),
)
"""Rows of totals; one that no method has a value for is left out."""
_GOAL_WORDS = {
    "shape_right": ("shape right", ".0%"),
    "hue_right": ("hue right", ".0%"),
    "one_front": ("one front, of objects with a front", ".0%"),
    "chamfer_solid": ("Chamfer, shapes without thin parts", ".4f"),
}


def _with_spread(figure: Mapping[str, Any], form: str) -> str:
    """The mean, and behind it the deviation between seeds when there are several."""
    shown = _figure(figure["mean"], form)
    return shown if figure["deviation"] is None else f"{shown} ± {format(figure['deviation'], form)}"


def _totals(methods: Mapping[str, Any]) -> list[list[str]]:
    totals = methods.values()
    table = [["**passed**", *(f"**{t['passed']} of {t['of']}**" for t in totals)]]
    for words, name in (("no object", "without_object"), ("no verdict, not in the means", "without_verdict")):
        if any(t[name] for t in totals):
            table.append([words, *(str(t[name]) for t in totals)])
    for words, name, form in _ROWS:
        figures = [t["figures"][name] for t in totals]
        if any(f["mean"] is not None for f in figures):
            table.append([words, *(_with_spread(f, form) for f in figures)])
    peaks = [t["peak_memory_bytes"] for t in totals]
    table.append(["peak memory, MB", *(_figure(None if p is None else p / 1e6, ".0f") for p in peaks)])
    return table


def _goals(methods: Mapping[str, Any]) -> list[list[str]]:
    """A row a goal: what is asked, and who reaches it."""
    table = [["asked of the best method", "", *methods]]
    for name, (words, form) in _GOAL_WORDS.items():
        found = [t["goals"][name] for t in methods.values()]
        asked = f"{found[0]['relation']} {format(found[0]['asked'], form)}" if found else ""
        verdicts = ["" if g["met"] is None else "yes" if g["met"] else "no" for g in found]
        table.append([words, asked, *verdicts])
    return table


def _refusals(controls: Mapping[str, Any]) -> list[list[str]]:
    scored = any("sim" in found for found in controls.values())
    table = [["control", "judgements", "wrongly accepted", *(["Sim", "R@1"] if scored else [])]]
    for name, found in controls.items():
        scores = [_figure(found.get("sim"), ".3f"), _figure(found.get("r_at_1"), ".0%")] if scored else []
        judged = f"{found['judged']} of {found['of']}" if found["judged"] < found.get("of", 0) else str(found["judged"])
        table.append([name, judged, str(len(found["taken_for"])), *scores])
    return table


def markdown(summary: Mapping[str, Any]) -> str:
    """Prompts by methods with verdict and volume IoU, each method's totals, the goals, and the controls."""
    jobs, methods = summary["jobs"], summary["methods"]
    table = [["prompt", *methods]]
    for prompt in order(jobs, "prompt"):
        cells = [_cell([j for j in jobs if j["prompt"] == prompt and j["method"] == m]) for m in methods]
        table.append([prompt, *cells])
    table += _totals(methods)
    figures = [f for t in methods.values() for f in t["figures"].values()]
    legend = "Number: volume IoU with the true shape in its best pose. After `fail`: the checks that were not met."
    if any(f["deviation"] is not None for f in figures):
        legend += " After ±: standard deviation between the means of the seeds."
    if any(t["figures"]["sim"]["mean"] is not None for t in methods.values()):
        captions = len(CORPUS[world_of(order(jobs, "prompt"))])
        legend += (
            " Sim and R@1: mean cosine with the own caption, and share of 120 views nearest to it among the "
            f"{captions} captions of the prompts' world, by a small trained scorer; "
            "it decides nothing."
        )
    parts = [_rows(table), [legend], _rows(_goals(methods)), _rows(_refusals(summary["controls"]))]
    return "\n".join(line for part in parts for line in [*part, ""])


def _preview(path: Path) -> Image | None:
    """A job's preview; None where there is none, or a damaged one."""
    from PIL import Image

    try:
        return Image.open(path).convert("RGB")
    except OSError:
        return None


def method_sheet(results: Sequence[Result], folders: Sequence[Path]) -> Image:
    """One row a job: prompt and verdict, then its preview; a job without a preview gets an empty row."""
    from PIL import Image, ImageDraw

    previews = [_preview(folder / PREVIEW) for folder in folders]
    width = max((p.width for p in previews if p), default=480)
    height = max((p.height for p in previews if p), default=96)
    sheet = Image.new("RGB", (_LABEL_WIDTH + width, height * max(1, len(results))), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (result, preview) in enumerate(zip(results, previews, strict=True)):
        top = i * height
        if preview:
            sheet.paste(preview, (_LABEL_WIDTH, top))
        passed = bool(result.get("passed"))
        why = [f.split(":")[0] for f in result.get("failures", [NO_VERDICT.get(result["status"], "")])]
        name = f"{result['prompt']}, seed {result['seed']}"
        draw.text((8, top + 12), name, fill=_INK, font=font(13, name))
        draw.text((8, top + 32), "pass" if passed else "fail", fill=_GOOD if passed else _BAD, font=font(13))
        for line, k in enumerate(range(0, len(why), 3)):
            draw.text((8, top + 48 + 14 * line), ", ".join(why[k : k + 3]), fill=_BAD, font=font(13))
    return sheet


def write_report(
    out: Path, summary: Mapping[str, Any], results: Sequence[Result], folders: Sequence[Path]
) -> list[Path]:
    """``quality.md`` and ``sheet-<method>.png`` in ``out``; returns their paths. Raises ``OutputError``."""
    written = [write_bytes(out / "quality.md", markdown(summary).encode())]
    for method in order(results, "method"):
        chosen = [(r, f) for r, f in zip(results, folders, strict=True) if r["method"] == method]
        sheet = method_sheet([r for r, _ in chosen], [f for _, f in chosen])
        written.append(write_png(out / f"sheet-{method}.png", sheet))
    return written
