"""What the quality benchmark shows: one JSON object, a Markdown table, and a contact sheet for each method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from ..evaluate import Thresholds, parse_prompt
from ..files import write_bytes
from ..render.pictures import write_png
from ..world.catalogue import solid_of
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
    return None if ious is None else float(ious[solid_of(parse_prompt(result["prompt"])[0])])


def _measure(result: Result, name: str) -> float | None:
    value = result["judgement"]["measures"].get(name)
    return None if value is None else float(value)


def _held(result: Result, check: str) -> float | None:
    """1 or 0 for a check that was made, None for one that was not."""
    made = [c["passed"] for c in result["judgement"].get("checks", ()) if c["name"] == check]
    return float(made[0]) if made else None


FIGURES: Mapping[str, Callable[[Result], float | None]] = {
    "passed": lambda r: float(bool(r["passed"])),
    "iou": _own_iou,
    "chamfer": lambda r: _measure(r, "chamfer"),
    "normal_consistency": lambda r: _measure(r, "normal_consistency"),
    "shape_right": lambda r: _held(r, "shape"),
    "hue_right": lambda r: _held(r, "colour"),
    "hue_distance": lambda r: _measure(r, "hue_distance"),
    "minutes": lambda r: float(r["minutes"]),
}
"""Figures of one judged job that are averaged over a method's jobs, and over the jobs of each seed for the spread."""


def _spread(judged: Sequence[Result]) -> dict[str, Any]:
    """Mean over all jobs, and mean and standard deviation over the seeds' means, of each figure; None for no value."""
    found: dict[str, Any] = {}
    for name, figure in FIGURES.items():
        values = [(r["seed"], v) for r in judged if (v := figure(r)) is not None]
        by_seed = [mean(v for s, v in values if s == seed) for seed in dict.fromkeys(s for s, _ in values)]
        found[name] = {
            "mean": mean(v for _, v in values) if values else None,
            "seed_means": by_seed,
            "deviation": stdev(by_seed) if len(by_seed) > 1 else None,
        }
    return found


def _janus(judged: Sequence[Result]) -> dict[str, Any]:
    """Of the objects with a front: shares with one front, with several (the Janus rate) and with none."""
    counts = [int(v) for r in judged if (v := _measure(r, "fronts")) is not None]
    total = len(counts)

    def share(wanted: Callable[[int], bool]) -> float | None:
        return sum(map(wanted, counts)) / total if total else None

    return {
        "judged": total,
        "one_front": share(lambda n: n == 1),
        "janus_rate": share(lambda n: n > 1),
        "no_front": share(lambda n: n == 0),
    }


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
        "figures": _spread(judged),
        "janus": _janus(judged),
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


_ROWS = (
    ("Chamfer, share of the box", "chamfer", ".4f"),
    ("normals agree", "normal_consistency", ".2f"),
    ("shape right", "shape_right", ".0%"),
    ("hue right", "hue_right", ".0%"),
)


def _with_spread(figure: Mapping[str, Any], form: str) -> str:
    """The mean, and behind it the deviation between seeds when there are several."""
    shown = _figure(figure["mean"], form)
    return shown if figure["deviation"] is None else f"{shown} ± {format(figure['deviation'], form)}"


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
    for words, name, form in _ROWS:
        table.append([words, *(_with_spread(t["figures"][name], form) for t in totals)])
    if any(t["janus"]["judged"] for t in totals):
        table.append(["one front", *(_figure(t["janus"]["one_front"], ".0%") for t in totals)])
        table.append(["Janus rate", *(_figure(t["janus"]["janus_rate"], ".0%") for t in totals)])
    table.append(["mean minutes", *(_figure(t["mean_minutes"], ".1f") for t in totals)])
    peaks = [t["peak_memory_bytes"] for t in totals]
    table.append(["peak memory, MB", *(_figure(None if p is None else p / 1e6, ".0f") for p in peaks)])
    refused = [["control", "judgements", "wrongly accepted"]]
    for name, control in summary["controls"].items():
        refused.append([name, str(control["judged"]), str(len(control["taken_for"]))])
    legend = "Number: volume IoU with the true shape in its best pose. After `fail`: the checks that were not met."
    if any(f["deviation"] is not None for t in totals for f in t["figures"].values()):
        legend += " After ±: standard deviation between the means of the seeds."
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
