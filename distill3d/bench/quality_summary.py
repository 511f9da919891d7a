"""What the quality benchmark found, as one JSON object: figures of each job, each method, each seed, and the goals.

A run whose object vanished, filled the view or became not a number is an outcome of its method, not a job to be left
out: it has an IoU of 0 and nothing right, R@1 included. What only an object can have (distances, normals, grain, hue,
spots, Sim) is averaged over the objects there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import mean, stdev
from typing import Any

from ..evaluate import Thresholds, parse_object, parse_prompt
from ..evaluate.controls import others
from ..world.catalogue import solid_of

THIN = ("bowl", "mug", "chair")
"""Solids with thin parts: more than half of their matter lies in no ball of radius 0.1 inside them, so that a wall or
a leg is narrower than a tenth of the box (of every other solid at most 0.12 does). Chamfer is also averaged without
them."""
GOALS: Mapping[str, tuple[str, float]] = {
    "shape_right": (">=", 0.85),
    "hue_right": (">=", 0.95),
    "one_front": (">=", 0.80),
    "chamfer_solid": ("<", 0.04),
}
"""What the best method is to reach over 24 held-out prompts and three seeds."""

NO_VERDICT = {"lost": "lost", "failed": "no verdict"}
"""Words for a job's status where nothing was judged."""

Result = Mapping[str, Any]


def _compact(result: Result) -> dict[str, Any]:
    """A job's line in the JSON object."""
    line = {k: result[k] for k in ("prompt", "method", "seed", "status")}
    if result["status"] != "judged":
        what = NO_VERDICT[result["status"]]
        found = {"iou": 0.0} if result["status"] == "lost" else {}
        return {**line, "passed": False, "failures": [f"{what}: {result['error'].strip().splitlines()[-1]}"], **found}
    measures = result["judgement"]["measures"]
    return {
        **line,
        "passed": result["passed"],
        "failures": result["failures"],
        "iou": _own_iou(result),
        "measures": measures,
        "scores": result.get("scores"),
        "minutes": result["minutes"],
        "peak_memory_bytes": result["peak_memory_bytes"].get("process"),
    }


def _own_iou(result: Result) -> float:
    """Volume IoU with the true solid; 0 where there is none."""
    ious = _measures(result).get("iou")
    return 0.0 if ious is None else float(ious[_solid(result)])


def _is_there(result: Result) -> bool:
    """Whether the field has a solid at all."""
    return _measures(result).get("iou") is not None


def _measures(result: Result) -> Mapping[str, Any]:
    found: Mapping[str, Any] = result["judgement"]["measures"] if result["status"] == "judged" else {}
    return found


def _seen(result: Result, name: str) -> float | None:
    """A measure of what can be seen; None where there is nothing."""
    return _measure(result, name) if _is_there(result) else None


def _measure(result: Result, name: str) -> float | None:
    value = _measures(result).get(name)
    return None if value is None else float(value)


def _held(result: Result, check: str) -> float | None:
    """1 or 0 for a check that was made, None for one that was not; 0 for a lost object."""
    if result["status"] != "judged":
        return 0.0
    made = [c["passed"] for c in result["judgement"].get("checks", ()) if c["name"] == check]
    return float(made[0]) if made else None


def _solid(result: Result) -> str:
    return solid_of(parse_prompt(result["prompt"])[0])


def _fronts(result: Result, wanted: Callable[[float], bool]) -> float | None:
    """1 or 0 for an object with a front, None for one without; what is not there has no front."""
    return float(wanted(_measure(result, "fronts") or 0)) if _has_front(result) else None


def _has_front(result: Result) -> bool:
    return parse_object(result["prompt"]).has_front


def _score(result: Result, name: str) -> float | None:
    value = (result.get("scores") or {}).get(name)
    return None if value is None else float(value)


FIGURES: Mapping[str, Callable[[Result], float | None]] = {
    "passed": lambda r: float(bool(r.get("passed"))),
    "iou": _own_iou,
    "chamfer": lambda r: _measure(r, "chamfer"),
    "chamfer_solid": lambda r: None if _solid(r) in THIN else _measure(r, "chamfer"),
    "normal_consistency": lambda r: _measure(r, "normal_consistency"),
    "shape_right": lambda r: _held(r, "shape"),
    "hue_right": lambda r: _held(r, "colour"),
    "hue_distance": lambda r: _seen(r, "hue_distance"),
    "roughness": lambda r: _measure(r, "roughness"),
    "spots": lambda r: _seen(r, "spots"),
    "one_front": lambda r: _held(r, "fronts") if _has_front(r) else None,
    "janus": lambda r: _fronts(r, lambda n: n > 1),
    "sim": lambda r: _score(r, "sim"),
    "r_at_1": lambda r: _score(r, "r_at_1"),
    "true_sim": lambda r: _score(r, "true_sim"),
    "true_r_at_1": lambda r: _score(r, "true_r_at_1"),
    "minutes": lambda r: None if r["status"] == "lost" else float(r["minutes"]),
}
"""Figures of one outcome that are averaged over a method's jobs, and over the jobs of each seed for the spread."""


def _spread(outcomes: Sequence[Result]) -> dict[str, Any]:
    """Of each figure the mean over all jobs, the mean of each seed that has one, and the standard deviation between
    those; None for no value."""
    found: dict[str, Any] = {}
    for name, figure in FIGURES.items():
        values = [(r["seed"], v) for r in outcomes if (v := figure(r)) is not None]
        by_seed = [mean(v for s, v in values if s == seed) for seed in dict.fromkeys(s for s, _ in values)]
        found[name] = {
            "mean": mean(v for _, v in values) if values else None,
            "seed_means": by_seed,
            "deviation": stdev(by_seed) if len(by_seed) > 1 else None,
        }
    return found


def _janus(outcomes: Sequence[Result]) -> dict[str, Any]:
    """Of the objects with a front: shares with one front where it should be, with one elsewhere or mirrored, with
    several (the Janus rate) and with none."""
    with_front = [r for r in outcomes if _has_front(r)]
    placed = [_held(r, "fronts") == 1 for r in with_front]
    counts = [int(_measure(r, "fronts") or 0) for r in with_front]
    shares = {
        "one_front": placed,
        "front_elsewhere": [n == 1 and not good for n, good in zip(counts, placed, strict=True)],
        "janus_rate": [n > 1 for n in counts],
        "no_front": [n == 0 for n in counts],
    }
    return {"judged": len(counts), **{name: mean(map(float, held)) if held else None for name, held in shares.items()}}


def _method_summary(results: Sequence[Result]) -> dict[str, Any]:
    outcomes = [r for r in results if r["status"] != "failed"]
    if any(_score(r, "r_at_1") is not None for r in outcomes):
        nothing = {"scores": {"r_at_1": 0.0}}
        outcomes = [{**r, **nothing} if r["status"] == "lost" else r for r in outcomes]
    peaks = [p["process"] for r in outcomes if "process" in (p := r.get("peak_memory_bytes", {}))]
    figures = _spread(outcomes)
    missing = len(results) - len(outcomes)
    return {
        "passed": sum(bool(r.get("passed")) for r in results),
        "of": len(results),
        "without_verdict": missing,
        "without_object": sum(not _is_there(r) for r in outcomes),
        "mean_iou": figures["iou"]["mean"],
        "mean_minutes": figures["minutes"]["mean"],
        "peak_memory_bytes": max(peaks, default=None),
        "figures": figures,
        "janus": _janus(outcomes),
        "goals": goals(figures, missing),
    }


def goals(figures: Mapping[str, Any], missing: int = 0) -> dict[str, dict[str, Any]]:
    """Each of ``GOALS`` with the method's mean and whether it is met; None where nothing was measured or jobs are
    ``missing``."""
    found = {}
    for name, (relation, asked) in GOALS.items():
        value = figures[name]["mean"]
        met = None if value is None or missing else bool(value >= asked if relation == ">=" else value < asked)
        found[name] = {"relation": relation, "asked": asked, "value": value, "met": met}
    return found


def summarise(results: Sequence[Result], controls: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The benchmark's one JSON object.

    Args:
        results: every job's result.
        controls: as ``quality_job.controls``; the shuffled prompts are added here from the results. A result that came
            from a benchmark of fewer prompts was tried for those alone: then fewer are ``judged`` than there are
            ``of``, and ``controls_refused`` is false.
        about: facts of the run as a whole, copied in.
    """
    judged = [r for r in results if r["status"] == "judged"]
    asked = tuple(order(results, "prompt"))
    wanted = {prompt: others(prompt, asked) for prompt in asked}
    tried = [(r, wrong, r["others"][wrong]) for r in judged for wrong in wanted[r["prompt"]] if wrong in r["others"]]
    shuffled: dict[str, Any] = {
        "judged": len(tried),
        "of": sum(len(wanted[r["prompt"]]) for r in judged),
        "taken_for": [f"{r['method']} {r['prompt']} taken for {wrong}" for r, wrong, taken in tried if taken],
    }
    for name in ("sim", "r_at_1"):
        values = [v for r in judged if (v := _score(r, f"shuffled_{name}")) is not None]
        shuffled |= {name: mean(values)} if values else {}
    everything = {**controls, "shuffled prompts": shuffled}
    methods = {m: _method_summary([r for r in results if r["method"] == m]) for m in order(results, "method")}
    return {
        "benchmark": "quality",
        **about,
        "methods": methods,
        "controls": everything,
        "controls_refused": all(not c["taken_for"] and c["judged"] >= c.get("of", 1) for c in everything.values()),
        "thresholds": asdict(Thresholds()),
        "jobs": [_compact(r) for r in results],
    }


def order(results: Iterable[Result], key: str) -> list[Any]:
    return list(dict.fromkeys(r[key] for r in results))
