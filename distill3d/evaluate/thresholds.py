"""What a field must reach to count as its prompt's object; each number says why.

Fixed before any run was judged, but for what follows.
``maximum_roughness`` and ``maximum_spots`` came later, because the eye saw what the rest forgave. They were fixed from
true objects and made-up faults as well, before any run was judged by them.
What ``minimum_visible`` allows for paint came after runs were seen: striped domes were refused for a purer white. So
did chroma in place of saturation for ``pale``; the number stayed. ``maximum_gap_opacity`` and ``minimum_chroma`` answer
made-up faults that had passed, a walled arch and a brown cube for an orange one, and were fixed from them. So do
``maximum_apart``, ``maximum_translucent``, ``minimum_core``, ``minimum_pattern`` and the question for chroma in the
majority of pixels: a speck and a ghost beside a cube, a tunnel through it, blotches for checks, an orange cube half
brown. ``minimum_pattern`` was 0.30, from 54 objects with blotches, when a draft of 0.26 had been seen; then from 214.
``maximum_stray`` answers heads with three eyes, which had one front each, and was fixed from made-up ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """All of them must hold. Ratios are in 0..1, angles in degrees."""

    minimum_iou: float = 0.75
    """Least volume IoU with the true shape. The two most alike of the eight true shapes, sphere and octahedron, reach
    0.76 with one another: a field that overlaps its own shape no better than that has not shown it."""
    ball_margin: float = 0.10
    """How much the true shape's volume IoU must exceed a plain ball's, spheres aside. A flawless field leads by 0.19
    (octahedron) to 0.65 (torus); half of the smallest lead tells a shape from a lump."""
    minimum_silhouette_iou: float = 0.80
    """Least mean IoU over 12 views of the rendered opacity with the true silhouette in the volume's best pose, swollen
    by at most 12 %. What one sees must be what the volume says: an outline wrong by a pixel all round costs 0.1."""
    scale: tuple[float, float] = (0.6, 1.4)
    """Allowed size relative to the world's shapes (the prior saw 0.88 to 1.04). A cube that fills the box has 1.8."""
    maximum_haze: float = 0.10
    """Most mean opacity, over 12 views, of pixels two or more away from the true silhouette: space must be clear."""
    maximum_apart: float = 0.02
    """Most share of a view's opacity, in the worst of the twelve and the one from above, that stands apart from the
    true silhouette (``views.apart``): a solid speck of a seventh of the object's width."""
    maximum_translucent: float = 0.03
    """Most share of a view's opacity, in the worst of these views, in patches one half sees through
    (``views.translucent``). A ghost half as wide as the cube beside it has 0.07 when its opacity is up to a half, 0.04
    up to a quarter; true objects with an edge softened by 0.02 have none, by 0.04 less than 0.03 but for the thin
    chair."""
    minimum_fill: float = 0.85
    """Least mean opacity inside the true silhouette: the object must be opaque, not a cloud of the right outline."""
    hue_distance: float = 20.0
    """Most distance of the opacity-weighted mean hue from the true one. The closest two of the eight colours, orange
    and yellow, are 25 degrees apart; red and orange, red and pink 28."""
    hue_share: float = 0.60
    """Least share of the object's opacity whose nearest named colour is the true one; pale pixels vote for none. A
    clear majority, so that a mean of two wrong colours cannot pass for the right one between them."""
    minimum_chroma: float = 0.50
    """Least mean chroma (largest minus smallest channel), as a share of the true object's: what is washed out or
    darkened beyond half of its colour has another name, though its hue is right. Orange darkened to a third is brown,
    red blended with two thirds of white is salmon."""
    pale: float = 0.15
    """A pixel with less chroma (largest minus smallest channel) than this has no hue to speak of: paint has none, the
    eight colours 0.55 to 0.95. Saturation, asked at first, called the near-black eyes of a smiley teal."""
    visible_contrast: float = 0.15
    """A pixel is seen on a background when its largest channel difference from it exceeds this, 38 of 255 levels."""
    minimum_visible: float = 0.90
    """Least share of the opaque pixels that is seen, on white and on dark alike: matter in the background's own colour
    hides on one of them. What is light or dark paint on the true object may hide on its like: that paint stands only
    0.16 off either ground, and a purer white is no fault."""
    maximum_opacity_error: float = 0.02
    """Most mean difference between the rendered opacity and the one that follows from the white and the dark render;
    5 of 255 levels leaves room for rounding and none for a second picture."""
    maximum_hole_opacity: float = 0.50
    """Most mean opacity, seen from straight above, of the inner 80 % of a torus's hole: rather open than shut."""
    maximum_gap_opacity: float = 0.50
    """Most mean opacity of the air between an object's parts (``views.gaps``), over all views: rather open than shut.
    An arch whose gate is walled up has 0.70, a torus with a plug of half its hole 0.69."""
    solidity: float = 0.92
    """Least solidity (share of the trimmed convex hull that is filled) relative to the true shape's on the same voxels.
    A cube whose sides bend inwards by a fifth of its half width, as early trials grew, has 0.91; true shapes with a
    surface rough by 0.04 keep 0.94."""
    minimum_core: float = 0.97
    """Least share of what lies deep inside the true shape (``solidity.core_fill``) that is solid. A square tunnel
    through a cube leaves 0.90 when it is a quarter as wide as the cube, 0.95 at a fifth, 0.98 at an eighth."""
    component_share: float = 0.90
    """Least share of the surface's faces, before any clean-up, in one connected component: the rest are floaters."""
    minimum_mesh_iou: float = 0.80
    """Least mean silhouette IoU over 12 views of the exported mesh, with the field's and with the truth's, for the same
    reason as ``minimum_silhouette_iou``."""
    maximum_chamfer: float = 0.04
    """Most Chamfer distance of the exported mesh to the true surface in the volume's best pose, as a share of the box's
    side: 0.08 world units, two and a half of the judge's voxels. It bounds how far a surface strays and does not tell
    shapes apart: a ball in place of a cube has 0.034."""
    minimum_normal_consistency: float = 0.82
    """Least mean cosine between the normals of the exported mesh and of the true surface. A ball in place of a cube has
    0.81, in place of an octahedron 0.85, and a sphere rough by 0.02 (standard deviation, bumps of 0.05) 0.89, by 0.04
    0.72: less says no more of the faces than a lump would."""
    maximum_roughness: float = 10.0
    """Most degrees by which the exported mesh's normals scatter around a point, within 0.08 and the 64 nearest, beyond
    the true surface's (``roughness``). Lit at 45 degrees by the world's lamp, 0.55 of the light, a scatter of 10
    degrees makes shade waver by 0.05 of full brightness, 12 of 255 levels: grain one sees. Meshes of all eighteen true
    solids have 0 to 1.9. A true cylinder with bumps 0.04 wide looks grainy at 10 and pitted at 16 (standard deviation
    0.005 only), with bumps of 0.09 knobbly at 14, of 0.18 dented at 12; the mean cosine asked for above lets the first
    kind pass up to 30."""
    maximum_spots: float = 0.03
    """Most share, in the worst of 12 views and the one from straight above, of an object's opacity that has a colour it
    wears nowhere (``spots``); less than ``minimum_chroma`` of its own is another colour too, but where paint may blend
    with it. True objects, painted ones too, have none. A round spot of 0.03 is a sixth of the object
    across, seven pixels of a 64-pixel view; a plug that fills the hole of a torus is 0.16 of what is seen from above:
    a fifth of it is refused."""
    paint_share: tuple[float, float] = (0.5, 2.0)
    """Allowed share of pale pixels, as a multiple of what the true object shows, where the prompt's object wears
    paint: a factor of two forgives blurred edges, and neither a bare object nor a white one."""
    minimum_pattern: float = 0.25
    """Least correlation of a pattern's colours with the true ones (``paint.pattern_correlation``). True patterns have
    0.89 and more, shifted by 0.06, more than a pixel, 0.54 and more, but for stripes (0.24). Of 214 cubes, spheres,
    cylinders, capsules and domes with random blotches in place of their pattern none has above 0.22, though most are
    nearer to the right pattern than to a wrong one."""
    fronts: int = 1
    """Fronts an object with a front must have; what counts as one is said, and was fixed, in ``fronts``."""
    maximum_stray: float = 0.02
    """Most share, in the worst five neighbouring views around, that is paint where the true object has none
    (``faces``). True objects have 0.000; a third eye between the two 0.04, at 45 degrees, beside an eye, 0.022, at the
    side or behind 0.07, a bar from eye to eye 0.05, a face of half the size behind 0.07, windows that run into each
    other across the door 0.05. Every mark must be there besides."""
    front_offset: float = 60.0
    """Most degrees between the front found and azimuth 0, where view prompts put it. A front view is one within 45
    degrees, and the ring's step adds 15: a front further off stands on a side."""
