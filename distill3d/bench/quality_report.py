"""What the quality benchmark shows: one JSON object, a Markdown table, and a contact sheet for each method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..evaluate import Thresholds, parse_prompt
from ..files import write_bytes
from ..render.pictures import write_png
from .quality_job import PREVIEW

if TYPE_CHECKING:
    from PIL.Image import Image

_INK, _GOOD, _BAD, _PAPER = (25, 25, 25), (0, 120, 50), (180, 20, 20), (255, 255, 255)
_LABEL_WIDTH = 190

Result = Mapping[str, Any]


def _compact(result: Result) -> dict[str, Any]:
    """A job's line in the JSON object."""
    line = {k: result[k] for k in ("prompt", "method", "seed", "status")}
    if result["status"] != "judged":
        return {**line, "passed": False, "failures": [f"no verdict: {result['error'].strip().splitlines()[-1]}"]}
    measures = result["judgement"]["measures"]
    return {
        **line,
        "passed": result["passed"],
        "failures": result["failures"],
        "iou": _own_iou(result),
        "measures": measures,
        "minutes": result["minutes"],
        "peak_memory_bytes": result["peak_memory_bytes"].get("process"),
    }


def _own_iou(result: Result) -> float | None:
    ious = result["judgement"]["measures"].get("iou")
    return None if ious is None else float(ious[parse_prompt(result["prompt"])[0]])


def _method_summary(results: Sequence[Result]) -> dict[str, Any]:
    judged = [r for r in results if r["status"] == "judged"]
    peaks = [r["peak_memory_bytes"]["process"] for r in judged if "process" in r["peak_memory_bytes"]]
    ious = [iou for iou in map(_own_iou, judged) if iou is not None]
    return {
        "passed": sum(bool(r.get("passed")) for r in results),
        "of": len(results),
        "without_verdict": len(results) - len(judged),
        "mean_iou": mean(ious) if ious else None,
        "mean_minutes": mean(r["minutes"] for r in judged) if judged else None,
        "peak_memory_bytes": max(peaks, default=None),
    }


def summarise(results: Sequence[Result], controls: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The benchmark's one JSON object.

    Args:
        results: every job's result.
        controls: as ``quality_job.controls``; the shuffled prompts are added here from the results.
        about: facts of the run as a whole, copied in.
    """
    judged = [r for r in results if r["status"] == "judged"]
    shuffled = {
        "judged": sum(r["shuffled_prompts"] for r in judged),
        "taken_for": [f"{r['method']} {r['prompt']} taken for {wrong}" for r in judged for wrong in r["taken_for"]],
    }
    everything = {**controls, "shuffled prompts": shuffled}
    methods = {m: _method_summary([r for r in results if r["method"] == m]) for m in _order(results, "method")}
    return {
        "benchmark": "quality",
        **about,
        "methods": methods,
        "controls": everything,
        "controls_refused": all(not c["taken_for"] for c in everything.values()),
        "thresholds": asdict(Thresholds()),
        "jobs": [_compact(r) for r in results],
    }


def _order(results: Iterable[Result], key: str) -> list[Any]:
    return list(dict.fromkeys(r[key] for r in results))


def _cell(lines: Sequence[Mapping[str, Any]]) -> str:
    """One prompt under one method, over its seeds."""
    if not lines:
        return ""
    parts = []
    for line in lines:
        if line["passed"]:
            parts.append(f"pass ({line['iou']:.2f})")
        elif line["status"] != "judged":
            parts.append("no verdict")
        else:
            why = ", ".join(f.split(":")[0] for f in line["failures"])
            parts.append(f"fail: {why}" + ("" if line["iou"] is None else f" ({line['iou']:.2f})"))
    return "<br>".join(parts)


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, f"|{'---|' * len(rows[0])}", *body]


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def markdown(summary: Mapping[str, Any]) -> str:
    """Prompts by methods with verdict and volume IoU, a line for each method's totals, and the controls."""
    jobs, methods = summary["jobs"], summary["methods"]
    table = [["prompt", *methods]]
    for prompt in _order(jobs, "prompt"):
        cells = [_cell([j for j in jobs if j["prompt"] == prompt and j["method"] == m]) for m in methods]
        table.append([prompt, *cells])
    totals = methods.values()
    table.append(["**passed**", *(f"**{t['passed']} of {t['of']}**" for t in totals)])
    table.append(["mean IoU", *(_figure(t["mean_iou"], ".2f") for t in totals)])
    table.append(["mean minutes", *(_figure(t["mean_minutes"], ".1f") for t in totals)])
    peaks = [t["peak_memory_bytes"] for t in totals]
    table.append(["peak memory, MB", *(_figure(None if p is None else p / 1e6, ".0f") for p in peaks)])
    refused = [["control", "judgements", "wrongly accepted"]]
    for name, control in summary["controls"].items():
        refused.append([name, str(control["judged"]), str(len(control["taken_for"]))])
    legend = "Number: volume IoU with the true shape in its best pose. After `fail`: the checks that were not met."
    return "\n".join([*_rows(table), "", legend, "", *_rows(refused), ""])


def method_sheet(results: Sequence[Result], folders: Sequence[Path]) -> Image:
    """One row a job: prompt and verdict, then its preview; a job without a preview gets an empty row."""
    from PIL import Image, ImageDraw, ImageFont

    previews = []
    for folder in folders:
        path = folder / PREVIEW
        previews.append(Image.open(path).convert("RGB") if path.is_file() else None)
    width = max((p.width for p in previews if p), default=480)
    height = max((p.height for p in previews if p), default=96)
    sheet = Image.new("RGB", (_LABEL_WIDTH + width, height * max(1, len(results))), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (result, preview) in enumerate(zip(results, previews, strict=True)):
        top = i * height
        if preview:
            sheet.paste(preview, (_LABEL_WIDTH, top))
        passed = bool(result.get("passed"))
        why = [f.split(":")[0] for f in result.get("failures", ["no verdict"])]
        draw.text((8, top + 12), f"{result['prompt']}, seed {result['seed']}", fill=_INK, font=font)
        draw.text((8, top + 32), "pass" if passed else "fail", fill=_GOOD if passed else _BAD, font=font)
        for k in range(0, len(why), 2):
            draw.text((8, top + 50 + 8 * k), ", ".join(why[k : k + 2]), fill=_BAD, font=font)
    return sheet


def write_report(
    out: Path, summary: Mapping[str, Any], results: Sequence[Result], folders: Sequence[Path]
) -> list[Path]:
    """``quality.md`` and ``sheet-<method>.png`` in ``out``; returns their paths. Raises ``OutputError``."""
    written = [write_bytes(out / "quality.md", markdown(summary).encode())]
    for method in _order(results, "method"):
        chosen = [(r, f) for r, f in zip(results, folders, strict=True) if r["method"] == method]
        sheet = method_sheet([r for r, _ in chosen], [f for _, f in chosen])
        written.append(write_png(out / f"sheet-{method}.png", sheet))
    return written
