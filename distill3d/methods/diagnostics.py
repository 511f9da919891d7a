"""Norms of a gradient's parts, the angles between them, and the noise-prediction error: what to look at when a run
goes wrong.

The error ``e(t) = mean (e_y - eps)^2`` over timesteps shows how well the model knows the current picture (the quantity
of ScaleDreamer's figure 1, https://arxiv.org/abs/2407.02040).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from .asd import SHIFTED
from .base import NEGATIVE, NULL, PERP, TARGET, Evaluation, dot

PARTS = ("generation", "classifier", "negative", "shift", "view")


def noise_error(e_y: Tensor, eps: Tensor) -> Tensor:
    """``(B,)`` mean square of ``e_y - eps`` over each sample; 0 for a model that found the noise."""
    return (e_y - eps).square().flatten(1).mean(1)


def parts(e: Mapping[Evaluation, Tensor], eps: Tensor) -> dict[str, Tensor]:
    """The differences that methods are made of, as far as their evaluations are there, unweighted ``(B, C, H, W)``:
    generation ``e_y - eps``, classifier ``e_y - e_0``, negative ``e_n - e_0``, shift ``e_y - e_y+``, view (Perp-Neg).
    """
    if TARGET not in e:
        return {}
    e_y, e_0 = e[TARGET], e.get(NULL, e.get(NEGATIVE))
    found = {"generation": e_y - eps}
    if e_0 is not None:
        found["classifier"] = e_y - e_0
    if NULL in e and NEGATIVE in e:
        found["negative"] = e[NEGATIVE] - e[NULL]
    if SHIFTED in e:
        found["shift"] = e_y - e[SHIFTED]
    if PERP in e:
        found["view"] = e[PERP]
    return found


def figures(e: Mapping[Evaluation, Tensor], eps: Tensor) -> dict[str, float]:
    """``norm/<part>`` (mean over the batch) and ``cosine/<part>,<part>`` of ``parts``; waits for the device once."""
    terms = parts(e, eps)
    norms = {name: dot(term, term).sqrt() for name, term in terms.items()}
    found = {f"norm/{name}": norm.mean() for name, norm in norms.items()}
    for a, b in itertools.combinations(terms, 2):
        found[f"cosine/{a},{b}"] = (dot(terms[a], terms[b]) / (norms[a] * norms[b]).clamp(min=1e-12)).mean()
    if not found:
        return {}
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
