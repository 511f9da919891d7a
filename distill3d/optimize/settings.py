"""Every setting of a run, with the sentence that explains it: what a tooltip and ``--help`` show is written here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as new
from typing import Any, Literal

from ..errors import SettingsError
from ..fields.background import BackgroundSettings
from ..fields.density import FieldSettings
from ..methods import create, lookup
from ..methods.asd import ASDSettings
from ..methods.base import Method
from ..methods.bridge import BridgeSettings
from ..methods.bsd import BSDSettings
from ..methods.csd import CSDSettings
from ..methods.gradient import GradientSettings
from ..methods.nfsd import NFSDSettings
from ..methods.perp_neg import PerpNegSettings
from ..methods.sds import SDSSettings
from ..methods.tbsd import TBSDSettings
from ..priors.freeu import FreeUSettings
from ..prompts import DEFAULT_SECTORS, Sector, check_sectors
from ..render.cameras import CameraRanges
from ..render.shading import ShadingSettings
from ..render.volume import RenderSettings
from ..schedules import Constant, Schedule, TimestepWindow, parse
from .guards import GuardSettings

MethodName = Literal["sds", "csd", "asd", "tbsd", "nfsd", "bridge", "bsd"]


@dataclass(frozen=True)
class LossSettings:
    """Weights of the regularisers beside the distillation loss, each a schedule over the run; 0 turns one off."""

    sparsity: Schedule = Constant(0.0)
    """Prefers empty pixels. Raise it when the object fills the view or haze surrounds it; too much makes it vanish."""
    opaque: Schedule = Constant(0.0)
    """Every pixel clear or solid. Raise it late in the run against half-transparent matter."""
    entropy: Schedule = Constant(0.0)
    """Each ray's matter in one place: a surface instead of fog."""
    orientation: Schedule = Constant(0.0)
    """Visible normals must face the camera (needs lit steps). Raise it against bumpy, inside-out surfaces."""
    smoothness: Schedule = Constant(0.0)
    """Normals of neighbouring pixels alike (needs lit steps). Raise it against rough faces; edges stay, small dents
    and bumps go."""
    distortion: Schedule = Constant(0.0)
    """Pulls each ray's matter together (mip-NeRF 360). Raise it against floaters in front of the object."""
    distance: Schedule = Constant(0.0)
    """Weighs visible matter by its squared distance beyond 0.8 from the centre: against floaters at the box's walls."""
    tint: Schedule = Constant(0.0)
    """Keeps white and dark paint free of the complement of the colour beside it, unless the prompt brings that (our
    own, in no paper): against bluish white on yellow and purple mouths on green. Run with the bundled prior, SDS on
    three seeds, ASD and CSD on one: linear(0, 50, from=0.5, to=0.6). It decodes every view with more signal than noise
    (timesteps below a third or so), but in textureless steps, and does nothing for CSD with a target weight of 0."""

    def __post_init__(self) -> None:
        for name, schedule in list(self.schedules()):
            object.__setattr__(self, name, parse(schedule))
            if (least := getattr(self, name).extremes()[0]) < 0:
                raise SettingsError(f"expected a weight of {name} of 0 or more throughout, got {least:g}: 0 is off")

    def schedules(self) -> Iterator[tuple[str, Schedule]]:
        """Name and schedule of every regulariser; the names are those of ``render.regularisers``."""
        for name in ("sparsity", "opaque", "entropy", "orientation", "smoothness", "distortion", "distance", "tint"):
            yield name, getattr(self, name)


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam, with a learning rate for each part of the field."""

    rate_grid: Schedule = Constant(0.01)
    """Learning rate of the hash grid."""
    rate_mlp: Schedule = Constant(0.001)
    """Learning rate of the small networks behind the grid."""
    rate_background: Schedule = Constant(0.001)
    """Learning rate of a learned background."""
    warmup: int = 10
    """Iterations over which the learning rates rise from 0."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates of the first and second moment."""
    eps: float = 1e-15
    """Adam's guard against division by 0. Parts with gradients well below it hold still: raise it (0.005 for the
    bundled prior, whose grid has gradients of 0.01 to 1 where rays reach) when the unseen inside or underside grows
    hollow or rough. Tiny, as published for hash grids, moves everything alike."""

    def __post_init__(self) -> None:
        for name in ("rate_grid", "rate_mlp", "rate_background"):
            object.__setattr__(self, name, parse(getattr(self, name)))
            if (least := getattr(self, name).extremes()[0]) < 0:
                raise SettingsError(f"expected a {name} of 0 or more throughout, got {least:g}: try 0.01")
        if self.warmup < 0:
            raise SettingsError(f"expected a warmup of 0 or more iterations, got {self.warmup}: 10 is usual")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SettingsError(f"expected betas from 0 to below 1, got {self.betas}: 0.9 0.99 is usual")
        if not 0 < self.eps < math.inf:
            raise SettingsError(f"expected an eps above 0, got {self.eps}: 1e-15 is usual")


def _not_finite(value: Any, name: str = "") -> list[str]:
    """Names of the numbers in a settings object that are infinite or NaN; schedules check themselves."""
    if isinstance(value, float):
        return [] if math.isfinite(value) else [name]
    if isinstance(value, tuple):
        return [bad for entry in value for bad in _not_finite(entry, name)]
    if dataclasses.is_dataclass(value) and not isinstance(value, Schedule):
        inner = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return [bad for key, entry in inner for bad in _not_finite(entry, f"{name}.{key}".lstrip("."))]
    return []


@dataclass(frozen=True)
class Settings:
    """A run's settings. Two runs with equal settings, prompt, seed, prior and device give the same field."""

    iterations: int = 400
    """Optimisation steps. More steps sharpen the object; the time grows in proportion."""
    batch: int = 2
    """Views rendered and judged in each step. More views steady the shape and cost proportionally more."""
    resolution: Schedule = Constant(64)
    """Side of the training renders in pixels; the bundled prior sees 64, Stable Diffusion 512 (64->128 is usual)."""
    method: MethodName = "sds"
    """Distillation method: sds, csd, asd, tbsd, nfsd, bridge or bsd. TBSD is our reading of its abstract, not a
    reproduction."""
    sds: SDSSettings = new(default_factory=SDSSettings)
    csd: CSDSettings = new(default_factory=CSDSettings)
    asd: ASDSettings = new(default_factory=ASDSettings)
    tbsd: TBSDSettings = new(default_factory=TBSDSettings)
    window: TimestepWindow = new(default_factory=TimestepWindow)
    gradient: GradientSettings = new(default_factory=GradientSettings)
    sectors: tuple[Sector, ...] = DEFAULT_SECTORS
    """View sectors and the words they add, as "name | azimuth low..high | elevation low..high | suffix"; semicolons
    between them, or a file with one a line; the first covers every view, later ones override it."""
    cameras: CameraRanges = new(default_factory=CameraRanges)
    field: FieldSettings = new(default_factory=FieldSettings)
    background: BackgroundSettings = new(default_factory=BackgroundSettings)
    render: RenderSettings = new(default_factory=RenderSettings)
    shading: ShadingSettings = new(default_factory=ShadingSettings)
    hardness: Schedule = Constant(1.0)
    """Factor on every density, over the run. Raise it, 1->8 say, so that translucent matter ends as a solid; higher
    from the start freezes the first shape."""
    losses: LossSettings = new(default_factory=LossSettings)
    optimizer: OptimizerSettings = new(default_factory=OptimizerSettings)
    guards: GuardSettings = new(default_factory=GuardSettings)
    occupancy_resolution: int = 48
    """Cells along each side of the grid that lets the renderer skip empty space."""
    occupancy_every: int = 8
    """Iterations between two updates of that grid."""
    checkpoint_every: int = 100
    """Iterations between two checkpoints; one is always written at the end and when a run is stopped."""

    diagnose_every: int = 10
    """Iterations between two readings of a method's own figures on a GPU, where reading one makes the device wait."""
    nfsd: NFSDSettings = new(default_factory=NFSDSettings)
    bridge: BridgeSettings = new(default_factory=BridgeSettings)
    bsd: BSDSettings = new(default_factory=BSDSettings)
    perp_neg: PerpNegSettings = new(default_factory=PerpNegSettings)
    freeu: FreeUSettings = new(default_factory=FreeUSettings)

    def __post_init__(self) -> None:
        if bad := _not_finite(self):
            raise SettingsError(f"expected finite numbers, got an infinite or undefined {', '.join(bad)}: set a number")
        object.__setattr__(self, "resolution", parse(self.resolution))
        object.__setattr__(self, "hardness", parse(self.hardness))
        object.__setattr__(self, "sectors", check_sectors(self.sectors))
        for name in (
            "iterations",
            "batch",
            "occupancy_resolution",
            "occupancy_every",
            "checkpoint_every",
            "diagnose_every",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(
                    f"expected {name} of 1 or more, got {getattr(self, name)}: set a whole number above 0"
                )
        if self.resolution.extremes()[0] < 8:
            raise SettingsError(f"expected a resolution of 8 pixels or more, got {self.resolution}: try 64")
        if self.hardness.extremes()[0] <= 0:
            raise SettingsError(f"expected a hardness above 0 throughout, got {self.hardness}: 1 changes nothing")
        lookup(self.method)
        object.__setattr__(self, "method", self.method.lower())

    def make_method(self) -> Method[Any]:
        """The chosen method with its own settings."""
        return create(self.method, getattr(self, self.method))
