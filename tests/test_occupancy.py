"""The occupancy grid finds, follows and forgets matter; prefix sums agree with a loop."""

from __future__ import annotations

import math

import pytest
import torch
from render_fields import WHITE, Ball, Cloud, Nothing, fitted_grid, generator
from torch import Tensor

from distill3d.render.cameras import orbit
from distill3d.render.occupancy import OccupancyGrid, dilate
from distill3d.render.sampling import intersect_box
from distill3d.render.scan import _double_scan, _padded_scan, exclusive_sum, ray_sum
from distill3d.render.volume import render


def test_grid_starts_full_and_closes_around_the_ball():
    grid = OccupancyGrid(24)
    assert grid.is_full and grid.fraction == 1 and grid.contains(torch.rand(99, 3) * 2 - 1).all()
    grid.update(Ball(), step_size=0.03, generator=generator(), warmup=True)
    centre = (torch.stack(torch.meshgrid(*[torch.arange(24)] * 3, indexing="ij"), -1) + 0.5) / 12 - 1
    distance, cell = centre.norm(dim=-1), 2 / 24
    assert grid.occupied[distance < 0.6].all()
    assert not grid.occupied[distance > 0.6 + 3 * math.sqrt(3) * cell].any()
    low, high = grid.box
    for reach in (-low, high):
        assert (reach >= 0.6).all() and (reach <= 0.6 + 2 * cell).all()


def test_the_box_fits_the_occupied_cells_exactly():
    grid, mask = OccupancyGrid(8), torch.zeros(8, 8, 8, dtype=torch.bool)
    mask[2:5, 0, 7] = True
    grid.set_occupied(mask)
    assert [corner.tolist() for corner in grid.box] == [[-0.5, -1, 0.75], [0.25, -0.75, 1]]
    assert grid.fraction == pytest.approx(3 / 512)
    at = torch.tensor([[0.0, -0.9, 0.9], [0.3, -0.9, 0.9], [0.0, -1.1, 0.9]])
    assert grid.contains(at).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="shape"):
        grid.set_occupied(mask[:4])


def test_grid_follows_matter_off_the_centre():
    class Pebble(Ball):
        def density(self, x: Tensor) -> Tensor:
            return super().density(x - torch.tensor([0.6, -0.3, 0.1]))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.density(x), self.colour.expand(len(x), 3)

    grid = fitted_grid(Pebble(radius=0.2), 20)
    middle = torch.stack(grid.box).mean(0)
    assert (middle - torch.tensor([0.6, -0.3, 0.1])).abs().max() <= 0.1
    assert grid.contains(torch.tensor([[0.6, -0.3, 0.1]])).all()
    assert not grid.contains(torch.tensor([[0.1, -0.3, 0.6], [-0.3, 0.6, 0.1]])).any()
    picture = render(Pebble(radius=0.2), orbit(0, 0), 9, 9, background=WHITE, occupancy=grid)
    row, column = (picture.opacity[0] > 0.9).nonzero().float().mean(0)
    assert row > 4.5 and column > 5.5, "below the middle and to its right"


def test_grid_forgets_matter_that_is_gone():
    grid, thick, gone = OccupancyGrid(12), Ball(density=2.0), Nothing()
    grid.update(thick, step_size=0.1, generator=generator(), warmup=True)
    inside = grid.density > 0
    grid.update(gone, step_size=0.1, generator=generator(), warmup=True)
    torch.testing.assert_close(grid.density[inside], torch.full_like(grid.density[inside], 2.0 * 0.95))
    for i in range(400):
        if grid.is_empty:
            break
        grid.update(gone, step_size=0.1, generator=generator(i))
    assert float(grid.density.max()) * 0.1 < 0.01


def test_grid_keeps_a_faint_field_and_drops_an_absent_one():
    grid = OccupancyGrid(8)
    grid.update(Ball(radius=9.0, density=1e-4), step_size=0.03, generator=generator(), warmup=True)
    assert grid.is_full
    grid = OccupancyGrid(8)
    grid.update(Nothing(), step_size=0.03, generator=generator(), warmup=True)
    assert grid.is_empty and torch.equal(*grid.box)


def test_grid_finds_new_matter_between_warm_ups():
    grid = fitted_grid(Ball(radius=0.3), 16)
    before = grid.fraction
    for i in range(20):
        grid.update(Ball(radius=0.8), step_size=0.03, generator=generator(i))
    assert grid.fraction > 2 * before
    assert grid.fraction == pytest.approx(fitted_grid(Ball(radius=0.8), 16).fraction, rel=0.1)


def test_grid_is_deterministic_and_survives_a_state_dict():
    def once() -> OccupancyGrid:
        grid, draw = OccupancyGrid(16), generator(7)
        for i in range(5):
            grid.update(Cloud(), step_size=0.03, generator=draw, warmup=i < 2)
        return grid

    first, second, loaded = once(), once(), OccupancyGrid(16)
    loaded.load_state_dict(first.state_dict())
    for other in (second, loaded):
        assert torch.equal(first.density, other.density) and torch.equal(first.occupied, other.occupied)
        assert torch.equal(torch.stack(first.box), torch.stack(other.box))


def test_dilation_grows_one_cell_in_all_26_directions():
    mask = torch.zeros(7, 7, 7, dtype=torch.bool)
    mask[3, 3, 0] = True
    grown = dilate(mask)
    assert grown.sum() == 18 and grown[2:5, 2:5, 0:2].all()


def test_box_distances_against_hand_numbers():
    o = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [0.0, 2.0, 3.0], [1.0, 0.0, 3.0]])
    d = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    enter, leave = intersect_box(o, d, torch.tensor([-1.0] * 3), torch.tensor([1.0] * 3))
    assert enter[:2].tolist() == [2, 0] and leave[:2].tolist() == [4, 1]
    assert (leave[2:] <= enter[2:]).all()


def test_scans_agree_with_each_other_and_with_a_loop():
    ray = torch.randint(0, 40, (500,), generator=generator()).sort().values
    value = torch.rand(500, generator=generator(1), dtype=torch.float64).requires_grad_()
    expected = [0.0] * 500
    for i in range(1, 500):
        expected[i] = expected[i - 1] + value[i - 1].item() if ray[i] == ray[i - 1] else 0.0
    weights = torch.rand(500, generator=generator(2), dtype=torch.float64)
    slopes = []
    for scan in (_double_scan, _padded_scan, exclusive_sum):
        out = scan(value, ray, 50)
        torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))
        slopes.append(torch.autograd.grad((out * weights).sum(), value)[0])
    torch.testing.assert_close(slopes[0], slopes[1])
    total = ray_sum(value, ray, 50)
    torch.testing.assert_close(total, torch.zeros(50, dtype=torch.float64).scatter_add(0, ray, value))


def test_a_late_ray_does_not_inherit_the_rounding_of_early_ones():
    value = torch.full((200_000,), 60.0)
    value[-3:] = 1e-3
    ray = torch.arange(200_000) // 100
    ray[-3:] = 5000
    torch.testing.assert_close(exclusive_sum(value, ray, 5001)[-3:], torch.tensor([0.0, 1e-3, 2e-3]), atol=1e-8, rtol=0)
