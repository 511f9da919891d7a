"""The one place that turns a method's wishes into rows of a single denoiser call, as few as there can be.

A row is one sample, at one timestep, under one text. Two evaluations that come to the same rows share them (an empty
negative prompt is the null prompt), and what has no weight gets no row. Rows of one evaluation follow each other in the
samples' order: hosts look at the batch in such stretches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..devices import upload
from ..errors import SettingsError
from ..methods import perp_neg
from ..methods.base import PERP, TARGET, Evaluation, Method
from ..methods.perp_neg import PerpNegSettings
from ..priors.base import Prior
from ..prompts import ViewPrompts

Text = tuple[int, int, float]
"""A text or a blend of two: rows of the embedding table, and the share of the first."""
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``blend(first, second, share)`` of a prior whose embeddings are not mixed by plain arithmetic."""


@dataclass
class Rows:
    """Rows of one denoiser call under construction.

    Attributes:
        sample: the sample each row belongs to; ``text`` what it is conditioned on; ``shifted`` whether at t+.
        places: for every evaluation, each sample's row, -1 where it has none.
        view_places: the same for each of Perp-Neg's two views to avoid; ``view_weights`` ``(B, 2)``.
        reference: the same for what Perp-Neg's directions start from.
    """

    timesteps: Sequence[int]
    timesteps_plus: Sequence[int]
    sample: list[int] = field(default_factory=list)
    text: list[Text] = field(default_factory=list)
    shifted: list[bool] = field(default_factory=list)
    places: dict[Evaluation, list[int]] = field(default_factory=dict)
    view_places: list[list[int]] = field(default_factory=list)
    view_weights: list[list[float]] = field(default_factory=list)
    reference: list[int] = field(default_factory=list)
    _known: dict[tuple[int, int, Text], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample)

    def add(self, texts: Sequence[Text | None], shifted: bool = False) -> list[int]:
        """Each sample's row for its text, -1 for None: rows already there if all of them are, else new ones."""
        times = self.timesteps_plus if shifted else self.timesteps
        keys = [None if text is None else (i, times[i], text) for i, text in enumerate(texts)]
        if any(key is not None and key not in self._known for key in keys):
            for key in keys:
                if key is not None:
                    self._known[key] = len(self.sample)
                    self.sample.append(key[0])
                    self.text.append(key[2])
                    self.shifted.append(shifted)
        return [-1 if key is None else self._known[key] for key in keys]


class Conditions:
    """The embeddings a method may ask for, made once, and the rows it needs at a step."""

    def __init__(self, prior: Prior, prompts: ViewPrompts, method: Method, settings: PerpNegSettings) -> None:
        """Raises ``SettingsError`` where Perp-Neg finds no front, side and back among the sectors."""
        self.prompts, self.method, self.settings = prompts, method, settings
        by_view = [method.texts(text, prompts.negative) for text in prompts.texts]
        texts = list(dict.fromkeys(text for kinds in by_view for text in kinds.values()))
        self.table = prior.embed(texts)
        self._index = {kind: [texts.index(kinds[kind]) for kinds in by_view] for kind in by_view[0]}
        if settings.enabled and (missing := [v for v in perp_neg.VIEWS if v not in prompts.names]):
            raise SettingsError(
                f"expected sectors named front, side and back for Perp-Neg, got none named {', '.join(missing)} in "
                f"{', '.join(prompts.names)}: ",
                advice="rename yours in {sectors}, or turn {perp_neg.enabled} off",
            )
        self._mix: Mix | None = getattr(prior, "blend", None)
        if settings.enabled and self._mix is None and self.table[0].numel() == 1:
            raise SettingsError(
                "expected text embeddings that can be blended for Perp-Neg, got a prior that hands out only their "
                "numbers: ",
                advice="turn {perp_neg.enabled} off with this model",
            )

    def rows(
        self, azimuth: Tensor, elevation: Tensor, progress: float, t: Tensor, t_plus: Tensor, time: Tensor
    ) -> Rows:
        """What has to be evaluated for ``(B,)`` views (radians) at ``(B,)`` timesteps; ``time`` is t / T."""
        views = self.prompts.select(azimuth, elevation).tolist()
        degrees = torch.rad2deg(azimuth).tolist()
        rows = Rows(t.tolist(), t_plus.tolist())
        wanted = self.method.evaluations(progress)
        blends = [self._blend(view, azi) for view, azi in zip(views, degrees, strict=True)]
        for evaluation in wanted:
            needed = self.method.needed(evaluation, time)
            wants = [True] * len(views) if needed is None else needed.flatten().tolist()
            texts = [self._text(evaluation, v, b) if w else None for v, b, w in zip(views, blends, wants, strict=True)]
            rows.places[evaluation] = rows.add(texts, evaluation.shifted)
        if self.settings.enabled and TARGET in wanted:
            self._add_views(rows, views, blends, progress)
        return rows

    def strength(self, progress: float) -> float:
        """Weight of Perp-Neg's correction."""
        chosen = self.settings.strength
        return self.method.perp_neg if chosen is None else chosen(progress)

    def _blend(self, view: int, degrees: float) -> perp_neg.Blend | None:
        """None without Perp-Neg, and in sectors that are neither front, side nor back, such as overhead."""
        if not self.settings.enabled or self.prompts.names[view] not in perp_neg.VIEWS:
            return None
        return perp_neg.blend(degrees, self.settings)

    def _named(self, name: str) -> int:
        return self._index["target"][self.prompts.names.index(name)]

    def _text(self, evaluation: Evaluation, view: int, blend: perp_neg.Blend | None) -> Text:
        if evaluation.prompt != "target" or blend is None:
            index = self._index[evaluation.prompt][view]
            return index, index, 1.0
        first, second = self._named(blend.first), self._named(blend.second)
        return (first, first, 1.0) if blend.share == 1 or first == second else (first, second, blend.share)

    def _add_views(
        self, rows: Rows, views: Sequence[int], blends: Sequence[perp_neg.Blend | None], progress: float
    ) -> None:
        strength, reference = self.strength(progress), self.method.reference(progress)
        pushed = [blend is not None and strength != 0 for blend in blends]
        if not any(pushed):
            return
        rows.view_weights = [
            [strength * w for _, w in b.avoid] if b is not None and strength else [0.0, 0.0] for b in blends
        ]
        if reference in rows.places:
            rows.reference = rows.places[reference]
        else:
            pairs = zip(views, blends, pushed, strict=True)
            rows.reference = rows.add([self._text(reference, v, b) if p else None for v, b, p in pairs])
        for k in range(2):
            names = [self._named(b.avoid[k][0]) if b is not None and strength else None for b in blends]
            rows.view_places.append(rows.add([None if n is None else (n, n, 1.0) for n in names]))

    def embeddings(self, rows: Rows) -> Tensor:
        """``(N, L, D)`` of the rows; a blend is the two embeddings mixed."""
        device = self.table.device
        first = upload(torch.tensor([a for a, _, _ in rows.text], dtype=torch.long), device)
        if all(share == 1 for _, _, share in rows.text):
            return self.table[first]
        second = upload(torch.tensor([b for _, b, _ in rows.text], dtype=torch.long), device)
        share = upload(torch.tensor([r for _, _, r in rows.text]), device).reshape(-1, *[1] * (self.table.ndim - 1))
        if self._mix is not None:
            return self._mix(self.table[first], self.table[second], share)
        return share * self.table[first] + (1 - share) * self.table[second]

    def collect(self, rows: Rows, predicted: Tensor) -> dict[Evaluation, Tensor]:
        """Predictions of the rows ``(N, C, h, w)`` -> each evaluation ``(B, C, h, w)``, zeros where left out."""
        e = {evaluation: _gather(predicted, places) for evaluation, places in rows.places.items()}
        if rows.view_places:
            avoid = torch.stack([_gather(predicted, places) for places in rows.view_places], 1)
            weights = upload(torch.tensor(rows.view_weights, dtype=predicted.dtype), predicted.device)
            e[PERP] = perp_neg.correction(e[TARGET], _gather(predicted, rows.reference), avoid, weights)
        return e


def _gather(predicted: Tensor, places: Sequence[int]) -> Tensor:
    index = upload(torch.tensor(places, dtype=torch.long), predicted.device)
    if min(places) >= 0:
        return predicted[index]
    there = (index >= 0).reshape(-1, *[1] * (predicted.ndim - 1))
    return torch.where(there, predicted[index.clamp(min=0)], 0.0)
