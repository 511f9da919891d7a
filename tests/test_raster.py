"""The rasteriser against point-in-triangle tests, and the rule that neighbours share no pixel and leave none out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from distill3d.mesh.raster import nearest, rasterise

WIDTH, HEIGHT = 23, 17


def inside(triangle: np.ndarray, x: float, y: float) -> float:
    """Smallest of the three edge functions, signed so that positive is inside."""
    a, b, c = triangle
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    edges = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
    return min(np.sign(area) * e for e in edges)


@given(st.lists(st.floats(-5, 30), min_size=6, max_size=6))
@settings(deadline=None, max_examples=60)
def test_covers_the_centres_inside(numbers: list[float]) -> None:
    triangle = np.array(numbers).reshape(3, 2)
    found = rasterise(torch.from_numpy(triangle)[None], HEIGHT, WIDTH)
    hit = set(found.pixel.tolist())
    for row in range(HEIGHT):
        for column in range(WIDTH):
            value = inside(triangle, column + 0.5, row + 0.5)
            if abs(value) > 1e-6:
                assert ((row * WIDTH + column) in hit) == (value > 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("snap", [False, True])
def test_neighbours_share_no_pixel_and_leave_none_out(seed: int, snap: bool) -> None:
    """A triangulation of the picture covers every pixel once, also where vertices lie on pixel centres."""
    random = np.random.default_rng(seed)
    points = np.concatenate(
        [random.random((60, 2)) * [WIDTH, HEIGHT], [[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]]]
    )
    if snap:
        points = np.unique(np.round(points * 2) / 2, axis=0)
    faces = Delaunay(points).simplices
    found = rasterise(torch.from_numpy(points[faces]), HEIGHT, WIDTH)
    assert torch.equal(found.pixel.sort().values, torch.arange(HEIGHT * WIDTH))
    centre = torch.einsum("nk,nkc->nc", found.weight, torch.from_numpy(points[faces])[found.face])
    expected = torch.stack([found.pixel % WIDTH + 0.5, found.pixel // WIDTH + 0.5], -1)
    assert torch.allclose(centre, expected.double(), atol=1e-6)
    bands = [rasterise(torch.from_numpy(points[faces]), HEIGHT, WIDTH, rows) for rows in ((0, 5), (5, 17))]
    assert torch.equal(torch.cat([b.pixel for b in bands]).sort().values, torch.arange(HEIGHT * WIDTH))


def test_the_nearest_fragment_wins() -> None:
    square = torch.tensor([[[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]]] * 3)
    found = rasterise(square, 8, 8)
    depth = torch.tensor([2.0, 1.0, 1.0])[found.face]
    index, best = nearest(found, depth, 64)
    assert (found.face[index[index >= 0]] == 1).all() and float(best[0]) == 1 and float(best[-1]) == float("inf")
    assert index[-1] == -1


def test_a_triangle_without_area_covers_nothing() -> None:
    flat = torch.tensor([[[1.0, 1.0], [5.0, 5.0], [3.0, 3.0]], [[2.0, 2.0]] * 3])
    assert len(rasterise(flat, 8, 8).pixel) == 0
