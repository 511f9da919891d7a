"""Fields that must fail: a judge is worth no more than what it refuses.

With every quality run go an untrained field, a grey ball, what ``SPOILED`` lists, and the run's own results judged for
each other's prompts. ``SolidField`` also builds the perfect answers the judge itself is tested on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..world.catalogue import solid_of
from ..world.objects import COLOURS, Object
from ..world.paint import DARK
from ..world.shapes import SHAPES
from .truth import parse_object

GREY = (0.5, 0.5, 0.5)


class SolidField:
    """A radiance field that is dense inside a signed distance function and clear outside.

    Args:
        sdf: ``(n, 3) -> (n,)``, negative inside.
        albedo: one colour, or ``(n, 3) -> (n, 3)`` in [0, 1].
        density: far inside, per world unit.
        softness: distance over which the density rises.
    """

    def __init__(
        self,
        sdf: Callable[[Tensor], Tensor],
        albedo: tuple[float, float, float] | Callable[[Tensor], Tensor] = GREY,
        density: float = 100.0,
        softness: float = 0.004,
    ) -> None:
        self.sdf, self.albedo, self.peak, self.softness = sdf, albedo, density, softness

    def density(self, x: Tensor) -> Tensor:
        return self.peak * torch.sigmoid(-self.sdf(x) / self.softness)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        colour = self.albedo(x) if callable(self.albedo) else x.new_tensor(self.albedo).expand_as(x)
        return self.density(x), colour

    def normals(self, x: Tensor) -> Tensor:
        """Unit gradient of the distance by central differences."""
        taps = 1e-3 * torch.eye(3, dtype=x.dtype, device=x.device)
        gradient = torch.stack([self.sdf(x + tap) - self.sdf(x - tap) for tap in taps], -1)
        return torch.nn.functional.normalize(gradient, dim=-1)


def perfect(thing: Object) -> SolidField:
    """The field that is exactly a world object."""
    return SolidField(thing.sdf, thing.albedo)


def grey_ball() -> SolidField:
    """A ball of the world's size and of no colour."""
    return SolidField(lambda x: SHAPES["sphere"].sdf(*x.unbind(-1)))


def two_faced(thing: Object) -> SolidField:
    """An object whose front half stands on either side: its paint and its solid for z > 0, mirrored to z < 0."""

    def folded(x: Tensor) -> Tensor:
        return torch.cat([x[:, :2], x[:, 2:].abs()], 1)

    return SolidField(lambda x: thing.sdf(folded(x)), lambda x: thing.albedo(folded(x)))


def three_eyed(thing: Object) -> SolidField:
    """A smiley with another eye that fills the space between its two: it has one front, and one eye too many."""

    def albedo(x: Tensor) -> Tensor:
        eye = (torch.hypot(x[:, 0] / 0.11, (x[:, 1] - 0.36) / 0.18) < 1) & (x[:, 2] > 0)
        return torch.where(eye[:, None], torch.full_like(x, DARK), thing.albedo(x))

    return SolidField(thing.sdf, albedo)


def mouthless(thing: Object) -> SolidField:
    """A smiley with eyes alone, which tell its front from its back well enough to count it."""
    own = torch.tensor(COLOURS[thing.colour])
    return SolidField(thing.sdf, lambda x: torch.where(x[:, 1:2] < 0.1, own.expand_as(x), thing.albedo(x)))


def rough(thing: Object, height: float = 0.02, cells: int = 24) -> SolidField:
    """An object whose surface has grain: trilinear noise of ``height`` on a lattice of ``cells`` points a side.

    The default, 0.09 wide and 0.011 high (standard deviation), is knobbly to the eye, and moves the surface by less
    than any other check minds.
    """
    lattice = torch.randn(1, 1, cells, cells, cells, generator=torch.Generator().manual_seed(0))

    def grainy(x: Tensor) -> Tensor:
        bump = torch.nn.functional.grid_sample(lattice, x.view(1, -1, 1, 1, 3), align_corners=True).view(-1)
        return thing.sdf(x) + height * bump

    return SolidField(grainy, thing.albedo)


def plugged(thing: Object, radius: float = 0.15, colour: str = "yellow") -> SolidField:
    """An object with a disc of another colour around the y axis, in the hole of a torus; the default shuts too little
    of it for a mean opacity to mind."""
    paint = torch.tensor(COLOURS[colour])

    def disc(x: Tensor) -> Tensor:
        return torch.maximum(torch.hypot(x[:, 0], x[:, 2]) - radius, x[:, 1].abs() - 0.06)

    def albedo(x: Tensor) -> Tensor:
        return torch.where((disc(x) < thing.sdf(x))[:, None], paint, thing.albedo(x))

    return SolidField(lambda x: torch.minimum(thing.sdf(x), disc(x)), albedo)


def walled(thing: Object) -> SolidField:
    """An arch whose gate is shut by a wall 0.12 thick, which takes little from its volume IoU."""

    def wall(x: Tensor) -> Tensor:
        return (torch.stack([x[:, 0], x[:, 1] + 0.16, x[:, 2]], 1).abs() - x.new_tensor([0.3, 0.46, 0.06])).amax(1)

    return SolidField(lambda x: torch.minimum(thing.sdf(x), wall(x)), thing.albedo)


def darkened(thing: Object, share: float = 0.3) -> SolidField:
    """An object in ``share`` of its brightness: its hue is right, and orange becomes brown."""
    return SolidField(thing.sdf, lambda x: share * thing.albedo(x))


def half_darkened(thing: Object, share: float = 0.25) -> SolidField:
    """An object whose lower half is in ``share`` of its brightness: a mean chroma forgives it."""
    return SolidField(thing.sdf, lambda x: torch.where(x[:, 1:2] < 0, share, 1.0) * thing.albedo(x))


def drilled(thing: Object, half: float = 0.1) -> SolidField:
    """An object with a square tunnel from front to back, 2 x ``half`` wide: volume and hull forgive it."""
    return SolidField(lambda x: torch.maximum(thing.sdf(x), half - x[:, :2].abs().amax(1)), thing.albedo)


def ghosted(thing: Object, density: float = 1.3, radius: float = 0.27) -> SolidField:
    """An object with a translucent ball up beside it: a mean over the space around forgives it."""
    ghost = SolidField(lambda x: (x - x.new_tensor([-0.72, 0.72, 0.0])).norm(dim=-1) - radius, density=density)
    return _Both(perfect(thing), ghost)


class _Both(SolidField):
    """Two fields in one; the colour is the first one's."""

    def __init__(self, first: SolidField, second: SolidField) -> None:
        super().__init__(first.sdf, first.albedo)
        self.second = second

    def density(self, x: Tensor) -> Tensor:
        return super().density(x) + self.second.density(x)


def blotched(thing: Object, cells: int = 10, seed: int = 3) -> SolidField:
    """An object half white in random places: trilinear noise below 0, on a lattice of ``cells`` points a side."""
    lattice = torch.randn(1, 1, cells, cells, cells, generator=torch.Generator().manual_seed(seed))
    own = torch.tensor(COLOURS[thing.colour])

    def paint(x: Tensor) -> Tensor:
        noise = torch.nn.functional.grid_sample(lattice, x.view(1, -1, 1, 1, 3), align_corners=True).view(-1)
        return torch.where((noise > 0)[:, None], own, torch.full_like(own, 0.95))

    return SolidField(thing.sdf, paint)


HEADS = tuple(f"a {colour} smiley" for colour in ("yellow", "red", "cyan"))
SPOILED: Mapping[str, tuple[Callable[[Object], SolidField], tuple[str, ...]]] = {
    "two-faced head": (two_faced, HEADS),
    "three-eyed head": (three_eyed, HEADS),
    "head without a mouth": (mouthless, HEADS),
    "two-faced mug, house, arrow": (two_faced, ("a yellow mug", "a cyan house", "a blue arrow")),
    "rough cylinder": (rough, ("an orange cylinder",)),
    "plugged torus": (plugged, ("a blue torus",)),
    "walled arch": (walled, ("a striped orange arch",)),
    "darkened cube": (darkened, ("an orange cube",)),
    "half-darkened cube": (half_darkened, ("an orange cube",)),
    "drilled cube": (drilled, ("a red cube",)),
    "cube with a ghost": (ghosted, ("a green cube",)),
    "blotched cube": (blotched, ("a checkered red cube",)),
}
"""How objects are spoiled, and the prompts of what they would be without. A ball or a chair folded like the others has
no front at all, and is refused for that."""


def others(prompt: str, prompts: tuple[str, ...]) -> tuple[str, ...]:
    """The prompts a result must be refused for: all that name another object, each once. Raises as ``parse_object``.

    Not the one that names the bare solid: a smiley whose face is missing is a sphere, and striped where no stripe came
    is plain.
    """
    own = parse_object(prompt)
    bare = Object(solid_of(own.shape), own.colour)
    return tuple(p for p in dict.fromkeys(prompts) if parse_object(p) not in (own, bare))
