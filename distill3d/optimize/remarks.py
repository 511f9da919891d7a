"""What of a run's choices does nothing, or not what its name says: not wrong enough to refuse, but to be told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..methods.csd import CSDSettings
from .settings import Settings

_MOMENTS = tuple(i / 200 for i in range(200))


def remarks(runs: Iterable[Settings], negative: str) -> list[str]:
    """Sentences for a user, each beginning with the methods it is about; none for nothing to tell.

    They tell of a negative prompt that is not read, of CSD's negative weight without a negative prompt, and of CSD's
    weights that let plain noise in.
    """
    found: dict[str, list[str]] = {}
    for settings in runs:
        for text in _about(settings, negative):
            found.setdefault(text, []).append(settings.method.upper())
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _about(settings: Settings, negative: str) -> Iterator[str]:
    method = settings.make_method()
    if negative.strip():
        kinds = {evaluation.prompt for moment in _MOMENTS for evaluation in method.evaluations(moment)}
        if settings.perp_neg.enabled:
            kinds |= {method.reference(moment).prompt for moment in _MOMENTS}
        one, other = (method.texts("object", text) for text in (negative, f"{negative}, {negative}"))
        if all(one[kind] == other[kind] for kind in kinds):
            yield "the negative prompt is not read with these settings"
    own = method.settings
    if isinstance(own, CSDSettings):
        if not negative.strip() and any(own.negative(moment) for moment in _MOMENTS):
            yield "without a negative prompt, the negative weight is one more for the empty text"
        if any(abs(own.target(p) + own.negative(p) + own.null(p)) > 1e-3 * abs(own.target(p)) for p in _MOMENTS):
            yield "the three weights do not add up to 0, so a part of the plain noise comes in"
