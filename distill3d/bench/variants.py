"""Variants of a run for ``distill3d bench quality``: guidance that stands still or falls, FreeU, Perp-Neg,
normals left alone.

A variant changes one thing of a method's settings, so the same prompt and seed with and without it differ by that
alone. Several are joined by ``+`` and applied in turn. Runs under a variant are called ``method+variant``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..errors import SettingsError
from ..files import write_bytes
from ..methods.perp_neg import PerpNegSettings
from ..optimize import Settings
from ..priors.freeu import FreeUSettings
from ..schedules import Constant, Linear, Schedule

PLAIN = "preset"
"""The variant that changes nothing."""
SCALES = {
    "sds": ("guidance",),
    "csd": ("target", "negative", "null"),
    "asd": ("guidance",),
    "tbsd": ("omega",),
    "nfsd": ("guidance",),
    "bridge": ("guidance", "k"),
    "bsd": ("kappa",),
}
"""What sets a method's strength: its guidance scale; for CSD and TBSD, which have none, what rescales the gradient; for
BSD the scale of the prompt's direction."""
FALL = (1.25, 0.75)
"""Start and end of the falling guidance relative to its mean: an end at 0.6 of the start, our end points."""


def average(schedule: Schedule) -> float:
    """Mean of a schedule over the run.

    >>> round(average(Linear(5.0, 1.0)), 6)
    3.0
    """
    return mean(schedule((i + 0.5) / 200) for i in range(200))


def _scaled(settings: Settings, shape: Callable[[float], Schedule]) -> Settings:
    own = getattr(settings, settings.method)
    changed = {name: shape(average(getattr(own, name))) for name in SCALES[settings.method]}
    return replace(settings, **{settings.method: replace(own, **changed)})


def _static_guidance(settings: Settings) -> Settings:
    return _scaled(settings, Constant)


def _dynamic_guidance(settings: Settings) -> Settings:
    return _scaled(settings, lambda middle: Linear(FALL[0] * middle, FALL[1] * middle))


def _static_freeu(settings: Settings) -> Settings:
    strongest = FreeUSettings()
    b1, b2 = (Constant(schedule(0.0)) for schedule in (strongest.b1, strongest.b2))
    return replace(settings, freeu=replace(strongest, enabled=True, b1=b1, b2=b2))


def _dynamic_freeu(settings: Settings) -> Settings:
    return replace(settings, freeu=FreeUSettings(enabled=True))


def _perp_neg(settings: Settings) -> Settings:
    return replace(settings, perp_neg=PerpNegSettings(enabled=True))


def _no_smoothness(settings: Settings) -> Settings:
    return replace(settings, losses=replace(settings.losses, smoothness=Constant(0.0)))


def _no_tint(settings: Settings) -> Settings:
    return replace(settings, losses=replace(settings.losses, tint=Constant(0.0)))


VARIANTS: dict[str, Callable[[Settings], Settings]] = {
    PLAIN: lambda settings: settings,
    "static-cfg": _static_guidance,
    "dynamic-cfg": _dynamic_guidance,
    "freeu": _static_freeu,
    "dynamic-freeu": _dynamic_freeu,
    "perp-neg": _perp_neg,
    "no-smoothness": _no_smoothness,
    "no-tint": _no_tint,
}
"""``static-cfg`` holds the preset's guidance at its mean over the run, ``dynamic-cfg`` lets it fall to 0.6 of its start
with the same mean; ``freeu`` has Stable Diffusion 2.1's b at every timestep, ``dynamic-freeu`` at low noise only;
``no-smoothness`` is the preset without its term against rough faces, ``no-tint`` without the one against the
complement of an object's colour in its paint."""


FAMILIES = (("static-cfg", "dynamic-cfg"), ("freeu", "dynamic-freeu"))
"""Changes of the same settings: of two joined only the second would be seen."""


def check_variants(names: Sequence[str]) -> None:
    """Raises ``SettingsError`` unless all are known names, or several of different families joined by ``+`` in the
    order of ``VARIANTS``, at least one and none twice: every run has one name."""
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"expected variants without repetition and at least one, got {tuple(names)}: write preset")
    for name in names:
        parts = name.split("+")
        if len(set(parts)) < len(parts) or (PLAIN in parts and len(parts) > 1):
            raise SettingsError(f"expected changes joined by +, each once and none of them {PLAIN}, got {name}")
    if unknown := [part for name in names for part in name.split("+") if part not in VARIANTS]:
        raise SettingsError(
            f"expected variants of {', '.join(VARIANTS)}, or several joined by +, got {', '.join(map(repr, unknown))}: "
            "write e.g. preset dynamic-cfg+perp-neg"
        )
    for name in names:
        parts = name.split("+")
        for family in FAMILIES:
            if set(family) <= set(parts):
                raise SettingsError(f"expected one of {' and '.join(family)} in a variant, got {name}: leave one out")
        if parts != (ordered := [known for known in VARIANTS if known in parts]):
            raise SettingsError(
                f"expected changes in the order of {', '.join(VARIANTS)}, got {name}: write {'+'.join(ordered)}"
            )


def applied(settings: Settings, variant: str) -> Settings:
    """The settings with a variant's change, or its changes in turn. Raises as ``check_variants``."""
    check_variants([variant])
    for part in variant.split("+"):
        settings = VARIANTS[part](settings)
    return settings


def label(method: str, variant: str) -> str:
    """What runs of a method under a variant are called.

    >>> label("sds", "preset"), label("sds", "perp-neg")
    ('sds', 'sds+perp-neg')
    """
    return method if variant == PLAIN else f"{method}+{variant}"


def compare(jobs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and spread of the volume IoU of every method and variant; variants also against the method's own preset.

    Args:
        jobs: entries with ``prompt``, ``method`` (a label), ``seed``, ``passed`` and ``iou``, None or absent where
            there is none.

    Returns:
        By label: ``runs``, ``passed``, ``with_iou``, ``mean_iou`` and ``spread_iou`` (sample standard deviation over
        prompts and seeds); and where the preset ran too, ``pairs`` of the same prompt and seed with the mean and spread
        of their differences, the variant's IoU minus the preset's. None where there are too few numbers.
    """
    found: dict[str, dict[tuple[str, int], float]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(job["method"] for job in jobs):
        mine = [job for job in jobs if job["method"] == name]
        found[name] = {(j["prompt"], j["seed"]): j["iou"] for j in mine if j.get("iou") is not None}
        values = list(found[name].values())
        passed = sum(bool(job["passed"]) for job in mine)
        rows[name] = {"runs": len(mine), "passed": passed, "with_iou": len(values), **_moments(values, "iou")}
    for name, row in rows.items():
        method, _, variant = name.partition("+")
        if variant and method in found:
            pairs = [key for key in found[name] if key in found[method]]
            differences = [found[name][key] - found[method][key] for key in pairs]
            row |= {"pairs": len(pairs), **_moments(differences, "difference")}
    return rows


def _moments(values: Sequence[float], of: str) -> dict[str, float | None]:
    return {
        f"mean_{of}": mean(values) if values else None,
        f"spread_{of}": stdev(values) if len(values) > 1 else None,
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """``compare`` as a Markdown table."""
    lines = [
        "| run | passed | volume IoU, mean and spread | against its preset, mean and spread of the difference |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        own = _figures(row["mean_iou"], row["spread_iou"], ".3f")
        other = _figures(row.get("mean_difference"), row.get("spread_difference"), "+.3f")
        other += f" over {row['pairs']}" if row.get("pairs") else ""
        lines.append(f"| {name} | {row['passed']} of {row['runs']} | {own} | {other} |")
    lines += ["", "After ±: standard deviation over prompts and seeds together."]
    return "\n".join(lines) + "\n"


def write_table(folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> Path:
    """``comparison.md`` in ``folder``. Raises ``OutputError``."""
    return write_bytes(folder / "comparison.md", table(rows).encode())


def _figures(middle: float | None, spread: float | None, form: str) -> str:
    if middle is None:
        return ""
    return format(middle, form) + ("" if spread is None else f" ± {spread:.3f}")
