"""Distillation without 3D: a latent, an image or a point in the plane is optimised directly, to see methods at work."""

from .latents import Distilled, Frame, Settings2D, distil, settings_for
from .mixture import TARGET_TEXT, mixture_prior

__all__ = ["TARGET_TEXT", "Distilled", "Frame", "Settings2D", "distil", "mixture_prior", "settings_for"]
