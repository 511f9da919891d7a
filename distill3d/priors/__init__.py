"""Diffusion models to distil from. Importing this package imports neither diffusers nor transformers."""

from __future__ import annotations

from .base import Prior
from .diffusers_prior import DiffusersPrior
from .load import bundled_prior_path, load_prior

__all__ = ["DiffusersPrior", "Prior", "bundled_prior_path", "load_prior"]
