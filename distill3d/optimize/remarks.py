"""What of a run's choices does nothing, or not what its name says: not wrong enough to refuse, but to be told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..methods.base import TARGET
from ..methods.csd import CSDSettings
from ..schedules import Schedule
from .settings import Settings

STRENGTHS = ("omega", "a", "k", "kappa")
"""Settings of methods that move toward the prompt where they are above 0."""


def remarks(runs: Iterable[Settings], negative: str) -> list[str]:
    """Sentences for a user, each beginning with the methods it is about; none for nothing to tell.

    They tell of a negative prompt that is not read, of strengths below 0, of runs in which nothing is evaluated, of
    CSD's negative weight without a negative prompt, and of CSD's weights that let plain noise in.

    Raises:
        SettingsError: texts that a method lacks, which would stop it at its first step.
    """
    found: dict[str, list[str]] = {}
    for settings in runs:
        for text in _about(settings, negative):
            found.setdefault(text, []).append(settings.method.upper())
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _about(settings: Settings, negative: str) -> Iterator[str]:
    method, moments = settings.make_method(), [i / settings.iterations for i in range(settings.iterations)]
    texts = method.texts("object", negative)
    push = settings.perp_neg.strength
    kinds = set()
    for moment in moments:
        evaluations = method.evaluations(moment)
        kinds |= {evaluation.prompt for evaluation in evaluations}
        if settings.perp_neg.enabled and TARGET in evaluations and (push is None or push(moment)):
            kinds.add(method.reference(moment).prompt)
    if not kinds:
        yield "every weight is 0, so the model is never asked and the prompt has no part in the result"
    elif negative.strip():
        other = method.texts("object", f"{negative}, {negative}")
        if all(texts[kind] == other[kind] for kind in kinds):
            yield "the negative prompt is not read with these settings"
    own = method.settings
    for name in STRENGTHS:
        schedule = getattr(own, name, None)
        if isinstance(schedule, Schedule) and min(map(schedule, moments)) < 0:
            yield f"{name} below 0 moves away from the prompt"
    if settings.perp_neg.enabled and push is not None and min(map(push, moments)) < 0:
        yield "a Perp-Neg strength below 0 moves toward the views it should avoid"
    if isinstance(own, CSDSettings):
        if not negative.strip() and any(map(own.negative, moments)):
            yield "without a negative prompt, the negative weight is one more for the empty text"
        weights = [[schedule(moment) for schedule in (own.target, own.negative, own.null)] for moment in moments]
        largest = max(sum(map(abs, three)) for three in weights)
        if any(abs(sum(three)) > 1e-3 * largest for three in weights):
            yield "the three weights do not add up to 0, so a part of the plain noise comes in"
