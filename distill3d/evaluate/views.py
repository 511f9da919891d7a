"""The twelve fixed views every field is judged from, what it shows there, and what the true object would show."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..fields.base import RadianceField
from ..render.cameras import Cameras, orbit, rays
from ..render.occupancy import OccupancyGrid
from ..render.shading import Shading
from ..render.volume import RenderSettings, render
from ..world.catalogue import CATALOGUE
from ..world.objects import COLOURS, Object
from ..world.trace import trace
from .fit import Pose

SIZE = 64
WHITE, DARK = 1.0, 0.08
RADIUS, FOV = 3.0, 42.0
SWELL = (1.0, 1.03, 1.06, 1.09, 1.12)
LEAST_AIR = 0.01


def judging_cameras() -> Cameras:
    """12 views: a ring of 8 at elevation 15 degrees, and of 4 between them at 50."""
    azimuth = [45.0 * i for i in range(8)] + [22.5 + 90.0 * i for i in range(4)]
    return orbit(azimuth, [15.0] * 8 + [50.0] * 4, RADIUS, FOV)


def top_camera() -> Cameras:
    """One view from straight above."""
    return orbit(0.0, 90.0, RADIUS, FOV)


@dataclass(frozen=True)
class Views:
    """What a field shows, ``B`` = 12.

    Attributes:
        white: ``(B, 64, 64, 3)`` rendered on white, unlit.
        dark: the same on a dark grey of 0.08.
        opacity: ``(B, 64, 64)`` as the renderer reports it.
        top: ``(64, 64)`` opacity from straight above.
        above: ``(64, 64, 3)`` rendered on white from there.
    """

    white: Tensor
    dark: Tensor
    opacity: Tensor
    top: Tensor
    above: Tensor

    def colour(self) -> Tensor:
        """``(B, 64, 64, 3)`` the object's own colour, in [0, 1]; meaningless where the opacity is near 0."""
        own = self.dark - DARK * (1 - self.opacity)[..., None]
        return (own / self.opacity.clamp(min=1e-3)[..., None]).clamp(0, 1)

    def colour_above(self) -> Tensor:
        """``(64, 64, 3)`` the same from straight above."""
        own = self.above - WHITE * (1 - self.top)[..., None]
        return (own / self.top.clamp(min=1e-3)[..., None]).clamp(0, 1)

    def opacity_error(self) -> float:
        """Mean difference of ``opacity`` and ``1 - (white - dark) / (1 - 0.08)``, the opacity the two renders imply."""
        implied = 1 - (self.white - self.dark).mean(-1) / (WHITE - DARK)
        return float((implied - self.opacity).abs().mean())

    def visible(self, contrast: float) -> tuple[float, float]:
        """Shares of pixels of opacity above 1/2 that differ by ``contrast`` from white, and from dark; 0 if none."""
        opaque = self.opacity > 0.5
        if not opaque.any():
            return 0.0, 0.0
        white = (self.white - WHITE).abs().amax(-1)[opaque] > contrast
        dark = (self.dark - DARK).abs().amax(-1)[opaque] > contrast
        return float(white.float().mean()), float(dark.float().mean())


@torch.no_grad()
def look(field: RadianceField, occupancy: OccupancyGrid | None, settings: RenderSettings) -> Views:
    """Render the views above without jitter, unlit."""
    cameras = judging_cameras()
    pictures = []
    for grey in (WHITE, DARK):
        background = torch.full((len(cameras), SIZE, SIZE, 3), grey)
        pictures.append(
            render(
                field, cameras, SIZE, SIZE, occupancy=occupancy, background=background, settings=settings,
                shading=Shading(), generator=None,
            )
        )  # fmt: skip
    top = render(
        field, top_camera(), SIZE, SIZE, occupancy=occupancy, background=torch.ones(1, SIZE, SIZE, 3),
        settings=settings, shading=Shading(), generator=None,
    )  # fmt: skip
    white, dark = pictures
    return Views(white.rgb.float(), dark.rgb.float(), white.opacity.float(), top.opacity[0].float(), top.rgb[0].float())


def from_object(cameras: Cameras, pose: Pose) -> Cameras:
    """The same cameras in the object's own coordinates: they see the object at scale 1 as they saw the posed one."""
    yaw = torch.tensor(pose.yaw)
    cos, sin, zero, one = yaw.cos(), yaw.sin(), torch.zeros(()), torch.ones(())
    inverse = torch.stack([cos, zero, -sin, zero, one, zero, sin, zero, cos]).view(3, 3)
    position = (cameras.position - torch.tensor(pose.centre)) @ inverse.T / pose.scale
    return replace(cameras, c2w=torch.cat([inverse @ cameras.c2w[:, :, :3], position[..., None]], -1))


def true_opacity(shape: str, pose: Pose, cameras: Cameras) -> Tensor:
    """``(B, 64, 64)`` coverage of the posed shape."""
    thing = Object(shape, next(iter(COLOURS)))
    return trace([thing] * len(cameras), from_object(cameras, pose), SIZE)[1][:, 0]


def true_outline(shape: str, pose: Pose, opacity: Tensor) -> tuple[float, Tensor]:
    """The factor in ``SWELL`` on the scale that suits ``opacity`` ``(12, 64, 64)`` best, and the coverage then."""
    cameras = judging_cameras()
    found = [(s, true_opacity(shape, replace(pose, scale=s * pose.scale), cameras)) for s in SWELL]
    return max(found, key=lambda item: soft_iou(opacity, item[1]))


def soft_iou(a: Tensor, b: Tensor) -> float:
    """Mean over views ``(B, H, W)`` of sum(min) / sum(max) of two opacities; two empty views agree fully."""
    common, either = torch.minimum(a, b).sum((1, 2)), torch.maximum(a, b).sum((1, 2))
    return float(torch.where(either > 0, common / either.clamp(min=1e-8), 1.0).mean())


def grow(mask: Tensor, pixels: int) -> Tensor:
    """Bool masks ``(B, H, W)`` grown by ``pixels`` in all eight directions."""
    side = 2 * pixels + 1
    return torch.nn.functional.max_pool2d(mask[:, None].float(), side, stride=1, padding=pixels)[:, 0] > 0


def haze(opacity: Tensor, truth: Tensor) -> float:
    """Mean opacity of the pixels two or more away from the true silhouette."""
    empty = ~grow(truth > 0, 2)
    return float(opacity[empty].mean()) if empty.any() else 0.0


def translucent(opacity: Tensor) -> float:
    """Share of a view's opacity ``(B, H, W)``, in the worst view, in patches one half sees through: 5 x 5 pixels and
    more between 0.1 and 0.8. The edge of a solid is narrower, and a mean over the space around forgives a ghost."""
    between = (opacity > 0.1) & (opacity < 0.8)
    patches = grow(~grow(~between, 2), 2)
    return float(((opacity * patches).sum((1, 2)) / opacity.sum((1, 2)).clamp(min=1e-6)).max())


def apart(opacity: Tensor, truth: Tensor) -> float:
    """Share of a view's opacity, in the worst view, in patches that are not connected to the true silhouette.

    Patches are what pixels above 0.05 and the silhouette make up together, ``(B, H, W)`` both, diagonal neighbours
    included.
    """
    from skimage.measure import label

    worst = 0.0
    for view, mask in zip(opacity, truth > 0, strict=True):
        patches = torch.from_numpy(label(((view > 0.05) | mask).numpy(), connectivity=2))
        lost = (patches > 0) & ~torch.isin(patches, patches[mask].unique())
        worst = max(worst, float(view[lost].sum() / view.sum().clamp(min=1e-6)))
    return worst


def fill(opacity: Tensor, truth: Tensor) -> float:
    """Mean opacity of the pixels two or more inside the true silhouette; 0 if the silhouette has no such pixel."""
    inner = ~grow(truth < 1, 2)
    return float(opacity[inner].mean()) if inner.any() else 0.0


def gaps(truth: Tensor) -> Tensor:
    """``(B, H, W)`` bool: pixels in the convex hull of each true silhouette and two or more away from it."""
    from skimage.morphology import convex_hull_image

    hulls = [convex_hull_image((view > 0.5).numpy()) if (view > 0.5).any() else (view > 0.5).numpy() for view in truth]
    return torch.from_numpy(np.stack(hulls)) & ~grow(truth > 0, 2)


def gap_opacity(opacity: Tensor, truth: Tensor) -> float | None:
    """Mean opacity, over all views ``(B, H, W)``, of the air between the parts of the true silhouettes; None where no
    view shows any."""
    air = gaps(truth)
    return float(opacity[air].mean()) if air.any() else None


@functools.cache
def has_gaps(shape: str) -> bool:
    """Whether the shape has air between its parts: in its own size at least a hundredth of what one sees of it."""
    truth = true_opacity(shape, Pose(0.0, 0.0, 0.0, 1.0, 0.0), judging_cameras())
    return bool(gaps(truth).sum() >= LEAST_AIR * truth.sum())


@functools.cache
def hole_radius(shape: str) -> float:
    """Radius of the hole around the y axis at scale 1, 0 for a shape without one."""
    sdf = CATALOGUE[shape].sdf
    reach = torch.linspace(-1, 1, 401)
    if not bool((sdf(0 * reach, reach, 0 * reach) > 0).all()):
        return 0.0
    wall = (sdf(reach, 0 * reach, 0 * reach) <= 0) & (reach > 0)
    return float(reach[wall][0])


def hole_opacity(top: Tensor, shape: str, pose: Pose) -> float | None:
    """Mean opacity from straight above of the inner 80 % of the posed shape's hole; None for a shape without one, or in
    a pose so small that no pixel shows it."""
    radius = hole_radius(shape) * pose.scale
    if radius == 0:
        return None
    origin, direction = (v[0] for v in rays(top_camera(), SIZE, SIZE))
    hit = origin + direction * ((pose.y - origin[..., 1]) / direction[..., 1])[..., None]
    inner = torch.hypot(hit[..., 0] - pose.x, hit[..., 2] - pose.z) < 0.8 * radius
    return float(top[inner].mean()) if inner.any() else None
