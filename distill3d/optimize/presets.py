"""Presets: settings that go together, for the bundled tiny prior and for a Stable Diffusion model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from ..errors import SettingsError
from ..fields.density import FieldSettings
from ..fields.layout import HashGridSettings
from ..methods import lookup
from ..methods import preset as published
from ..methods.asd import ASDSettings
from ..methods.bridge import BridgeSettings
from ..methods.bsd import BSDSettings
from ..methods.csd import CSDSettings
from ..methods.gradient import GradientSettings
from ..methods.nfsd import NFSDSettings
from ..methods.sds import SDSSettings
from ..methods.settings import MethodSettings
from ..methods.tbsd import TBSDSettings
from ..prompts import DEFAULT_SECTORS, NARROW_SECTORS
from ..render.cameras import CameraRanges
from ..render.shading import ShadingSettings
from ..render.volume import RenderSettings
from ..schedules import Constant, Linear, Piecewise, TimestepWindow
from .settings import LossSettings, MethodName, OptimizerSettings, Settings

PRESETS = ("draft", "standard", "fine")

_TINY: Mapping[str, Mapping[str, Any]] = {
    "draft": {"iterations": 500, "batch": 2},
    "standard": {"iterations": 1000, "batch": 2},
    "fine": {"iterations": 2000, "batch": 4},
}
_FULL: Mapping[str, Mapping[str, Any]] = {
    "draft": {"iterations": 2000, "batch": 1, "resolution": Constant(64)},
    "standard": {"iterations": 6000, "batch": 1, "resolution": Linear(64, 128)},
    "fine": {"iterations": 15000, "batch": 2, "resolution": Linear(64, 256)},
}


_TINY_GUIDANCE = ((0.0, 5.0), (0.4, 5.0), (0.55, 7.5), (1.0, 2.5))
_TINY_LATEST = ((0.0, 0.98), (0.15, 0.9), (0.33, 0.6), (0.65, 0.55), (1.0, 0.3))
_TINY_EARLIEST = ((0.0, 0.02), (0.25, 0.02), (0.35, 0.4), (0.6, 0.4), (0.7, 0.02), (1.0, 0.02))
_TINY_LEVEL = ((0.0, 1.0), (0.3, 1.0), (0.45, 0.0), (1.0, 0.0))
_TINY_FOCUS = ((0.0, 0.0), (0.3, 0.0), (0.4, 0.5), (0.6, 0.5), (0.7, 0.0), (1.0, 0.0))


def _tiny(name: str, method: MethodName) -> Settings:
    """What ``docs/tuning.md`` found with the bundled prior of the full world.

    A coarse grid, because 64-pixel views say nothing of finer detail and only make the surface rough; matter that
    hardens from fog, through which a hole can open, to a solid, and fog as large as any object, because a hard field
    does not grow; cameras at one height while the shape is found, as the prior's words do not say from how high; the
    world's own lamp, which hangs above, because under any other the shape bends until the shade is right; no
    textureless steps, in which a painted object digs its paint as pits. Timesteps around 0.5 and cameras in the middles
    of the four sides put a face where it belongs, and low ones then draw it: only those hold paint and thin parts. What
    they roughen, the smoothness of normals makes flat, and white and dark paint is kept free of the tint that guidance
    gives it. Guidance is highest there, where paint needs it, and falls, or noise stays, as do the rates. An eps that
    holds still what hardly any ray sees, or Adam hollows it out. All timesteps weigh alike, because the low ones
    sharpen corners. ASD takes the largest shift, with which its second prediction steadies as SDS's noise does; the
    published 0.1 ends in rough surfaces. SDS-Bridge goes without smoothness: its second stage pulls so little with
    words this prior does not know that shapes melt. All the rest, guidance too, was found with SDS and is the same for
    every method.
    """
    grid = HashGridSettings(levels=4, base_resolution=8, finest_resolution=32, log2_table_size=18)
    guidance, less = Piecewise(_TINY_GUIDANCE), Piecewise(tuple((at, -value) for at, value in _TINY_GUIDANCE))
    relatives: Mapping[str, MethodSettings] = {
        "tbsd": TBSDSettings(omega=guidance),
        "nfsd": NFSDSettings(guidance),
        "bridge": BridgeSettings(guidance, k=guidance),
        "bsd": BSDSettings(kappa=guidance),
    }
    own: dict[str, Any] = {method: relatives[method]} if method in relatives else {}
    return Settings(
        **_TINY[name],
        method=method,
        sds=SDSSettings(guidance),
        csd=CSDSettings(target=guidance, null=less),
        asd=ASDSettings(guidance, eta=1.0, random=False, t_min=0.02),
        **own,
        window=TimestepWindow(Piecewise(_TINY_EARLIEST), Piecewise(_TINY_LATEST)),
        cameras=CameraRanges(focus=Piecewise(_TINY_FOCUS), level=Piecewise(_TINY_LEVEL), focus_elevation=30.0),
        field=FieldSettings(grid=grid, blob_density=5.0, blob_radius=0.8),
        gradient=GradientSettings("uniform"),
        hardness=Linear(1.0, 24.0, begin=0.2, until=0.9),
        render=RenderSettings(samples_per_ray=48, normal_weight=0.01),
        losses=LossSettings(
            sparsity=Linear(1.0, 0.0, until=0.3),
            opaque=Linear(0.0, 2.0, begin=0.2),
            smoothness=Constant(0.0) if method == "bridge" else Linear(0.0, 5.0, begin=0.3, until=0.6),
            tint=Linear(0.0, 50.0, begin=0.5, until=0.6),
        ),
        shading=ShadingSettings(
            start=0.0, albedo_probability=0.1, textureless_probability=0.0, ambient=0.45, diffuse=0.55, lamp="above"
        ),
        optimizer=OptimizerSettings(Linear(0.02, 5e-4, begin=0.5), Linear(0.01, 2.5e-4, begin=0.5), eps=0.005),
    )


def _full(name: str, method: MethodName) -> Settings:
    known = lookup(method).method.presets
    source = published(method, "published-3d" if "published-3d" in known else None)
    words = {"target": BridgeSettings().target} if method == "bridge" else {}  # a text is used as a graph shows it
    own: dict[str, Any] = {method: replace(source.settings, **words)}
    field = FieldSettings(grid=HashGridSettings.fine()) if name != "draft" else FieldSettings()
    return Settings(
        **_FULL[name],
        **own,
        method=method,
        window=source.window,
        gradient=source.gradient,
        sectors=NARROW_SECTORS if method in ("csd", "asd", "bridge") else DEFAULT_SECTORS,
        field=field,
        render=RenderSettings(samples_per_ray=128 if name == "draft" else 256),
        losses=LossSettings(sparsity=Constant(1.0), opaque=Linear(0.0, 0.1, begin=0.5), orientation=Linear(0.01, 1.0)),
        checkpoint_every=500,
    )


def preset(name: str, method: str = "sds", *, bundled: bool = True) -> Settings:
    """The settings of a preset.

    Args:
        name: draft, standard or fine.
        method: sds, csd, asd, tbsd, nfsd, bridge or bsd.
        bundled: for the bundled tiny prior; False gives each method's published scale, window, weighting and
            sectors, for a Stable Diffusion model.

    Raises:
        SettingsError: an unknown preset or method.
    """
    if name not in PRESETS:
        raise SettingsError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}; choose one")
    known = cast(MethodName, lookup(method).method.name.lower())
    return (_tiny if bundled else _full)(name, known)
