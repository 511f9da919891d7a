"""The hash grid against a second implementation in float64, finite differences, and tiny-cuda-nn's known sizes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill3d.bench import encoder as bench
from distill3d.errors import SettingsError
from distill3d.fields import interpolate
from distill3d.fields.hashgrid import HashGrid, HashGridSettings, Layout, encode, encode_plain, layout

TINY = HashGridSettings(levels=4, log2_table_size=9, base_resolution=4, finest_resolution=21)
ROUTES = ("loop", "batched", "plain")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(sizes: HashGridSettings = TINY, points: int = 37, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    grid = layout(sizes)
    x = torch.rand(points, 3, generator=seeded(1), dtype=dtype)
    params = torch.rand(grid.entries * grid.features, generator=seeded(2), dtype=dtype) - 0.5
    upstream = torch.randn(points, grid.levels * grid.features, generator=seeded(3), dtype=dtype)
    return x, params, upstream


def reference(x: Tensor, params: Tensor, grid: Layout) -> Tensor:
    """tiny-cuda-nn's ``kernel_grid`` read off its source: unsigned 32-bit indices, weights as products."""
    table = params.view(-1, grid.features)
    features = []
    for level in range(grid.levels):
        resolution, size, offset = grid.resolutions[level], grid.sizes[level], grid.offsets[level]
        position = x * grid.scales[level] + 0.5
        cell = position.detach().floor()
        fraction = position - cell
        total = torch.zeros(len(x), grid.features, dtype=x.dtype)
        for bits in itertools.product((0, 1), repeat=3):
            gx, gy, gz = (cell.long() + torch.tensor(bits)).unbind(1)
            if size < resolution**3:
                index = gx ^ (gy * 2654435761 & 0xFFFFFFFF) ^ (gz * 805459861 & 0xFFFFFFFF)
            else:
                index = gx + gy * resolution + gz * resolution**2
            weight = torch.where(torch.tensor(bits).bool(), fraction, 1 - fraction).prod(1)
            total = total + weight[:, None] * table[offset + index % size]
        features.append(total)
    return torch.cat(features, 1)


def test_layout_matches_threestudio_config() -> None:
    sizes = HashGridSettings(levels=16, log2_table_size=19, per_level_scale=1.447269237440378)
    grid = layout(sizes)
    assert grid.entries == 6_299_960
    assert grid.dense == 5
    assert grid.resolutions == (16, 24, 34, 49, 71, 102, 148, 213, 308, 446, 646, 934, 1352, 1956, 2831, 4096)
    assert grid.sizes == (4096, 13824, 39304, 117656, 357912, *[2**19] * 11)
    assert grid == layout(HashGridSettings.fine())


def test_layout_with_growth_two_is_exact() -> None:
    grid = layout(HashGridSettings(levels=5, log2_table_size=14, base_resolution=8, per_level_scale=2.0))
    assert grid.scales == (7.0, 15.0, 31.0, 63.0, 127.0)
    assert grid.resolutions == (8, 16, 32, 64, 128)
    assert grid.offsets == (0, 512, 512 + 4096, 512 + 4096 + 2**14, 512 + 4096 + 2 * 2**14, 512 + 4096 + 3 * 2**14)


@given(
    levels=st.integers(1, 16),
    log2_table_size=st.integers(6, 20),
    base=st.integers(2, 32),
    ratio=st.floats(1.0, 64.0),
)
def test_layout_is_sound(levels: int, log2_table_size: int, base: int, ratio: float) -> None:
    sizes = HashGridSettings(levels, 2, log2_table_size, base, int(base * ratio))
    grid = layout(sizes)
    for level, (scale, resolution, size) in enumerate(zip(grid.scales, grid.resolutions, grid.sizes, strict=True)):
        assert resolution == math.ceil(scale) + 1
        assert scale == pytest.approx(base * sizes.growth**level - 1, rel=1e-5, abs=1e-5)
        assert size % 8 == 0 and size <= 2**log2_table_size
        assert (level < grid.dense) == (size >= resolution**3)
        assert grid.offsets[level + 1] - grid.offsets[level] == size


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": 0},
        {"features": 0},
        {"log2_table_size": 3},
        {"base_resolution": 1},
        {"finest_resolution": 8},
        {"per_level_scale": 0.5},
        {"per_level_scale": 9.0},
    ],
)
def test_unusable_settings_name_the_setting(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        HashGridSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("features", [1, 2, 4])
def test_values_and_gradients_match_the_reference(route: str, features: int) -> None:
    sizes = HashGridSettings(4, features, 9, 4, 21)
    grid = layout(sizes)
    assert 0 < grid.dense < grid.levels
    x, params, upstream = example(sizes)
    x[0], x[1], x[2] = 0.0, 1.0, torch.tensor([1.0, 0.0, 0.999])
    results = []
    for run in (lambda a, b: encode(a, b, grid, route=route, chunk=16), lambda a, b: reference(a, b, grid)):  # type: ignore[arg-type]
        a, b = x.clone().requires_grad_(), params.clone().requires_grad_()
        out = run(a, b)
        results.append((out, *torch.autograd.grad(out, (a, b), upstream)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("route", ROUTES)
def test_float32_stays_near_float64_at_the_fine_profile(route: str) -> None:
    grid = layout(HashGridSettings.fine())
    x, params, _ = example(HashGridSettings.fine(), points=24, dtype=torch.float32)
    ours = encode(x, params, grid, route=route)  # type: ignore[arg-type]
    torch.testing.assert_close(ours.double(), reference(x.double(), params.double(), grid), rtol=0, atol=1e-3)


@pytest.mark.parametrize("route", ["loop", "batched"])
def test_gradients_match_finite_differences(route: str) -> None:
    grid = layout(HashGridSettings(2, 2, 4, 2, 4))
    assert grid.dense == 1
    x = torch.rand(3, 3, generator=seeded(4), dtype=torch.float64).mul(0.9).add(0.05).requires_grad_()
    params = torch.randn(grid.entries * 2, generator=seeded(5), dtype=torch.float64).requires_grad_()
    run = lambda a, b: encode(a, b, grid, route=route, chunk=2)  # type: ignore[arg-type]  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, params), eps=1e-7)
    assert torch.autograd.gradgradcheck(run, (x, params), eps=1e-7)


@pytest.mark.parametrize("route", ["loop", "batched"])
def test_second_order_matches_the_reference(route: str) -> None:
    grid = layout(TINY)
    x, params, upstream = example(points=9)

    def gradient_penalty(run: object) -> tuple[Tensor, ...]:
        a, b = x.clone().requires_grad_(), params.clone().requires_grad_()
        (slope,) = torch.autograd.grad(run(a, b), a, upstream, create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad((slope.norm(dim=1) - 1).square().sum(), (a, b))

    ours = gradient_penalty(lambda a, b: encode(a, b, grid, route=route))  # type: ignore[arg-type]
    theirs = gradient_penalty(lambda a, b: reference(a, b, grid))
    for o, t in zip(ours, theirs, strict=True):
        torch.testing.assert_close(o, t, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("route", ["loop", "batched"])
@settings(max_examples=15, deadline=None)
@given(chunk=st.integers(1, 60))
def test_result_does_not_depend_on_the_chunk(route: str, chunk: int) -> None:
    grid = layout(TINY)
    x, params, upstream = example(points=53, dtype=torch.float32)
    whole, split = params.clone().requires_grad_(), params.clone().requires_grad_()
    encode_plain(x, whole, grid).backward(upstream)
    out = encode(x, split, grid, route=route, chunk=chunk)  # type: ignore[arg-type]
    out.backward(upstream)
    torch.testing.assert_close(out, encode_plain(x, params, grid), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(split.grad, whole.grad, rtol=1e-5, atol=1e-5)


def test_batched_equals_loop_in_float32() -> None:
    sizes = HashGridSettings(levels=8)
    grid = layout(sizes)
    x, params, upstream = example(sizes, points=5000, dtype=torch.float32)
    found = {}
    for route in ("loop", "batched"):
        a, b = x.clone().requires_grad_(), params.clone().requires_grad_()
        out = encode(a, b, grid, route=route)  # type: ignore[arg-type]
        found[route] = (out, *torch.autograd.grad(out, (a, b), upstream))
    for name, loop, batched in zip(("out", "x", "params"), found["loop"], found["batched"], strict=True):
        difference = (loop - batched).abs().max() / loop.abs().max()
        assert difference < 1e-6, name


def test_batched_uses_neither_complex_nor_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[torch.dtype] = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                seen.add(result.dtype)
            return result

    grid = layout(TINY)
    x, params, upstream = example(dtype=torch.float32)
    with Watch():
        interpolate.batched.forward(x, params, grid, 16)
        interpolate.batched.backward(x, params, upstream, grid, 16, True, True)
    assert torch.float32 in seen and torch.int32 in seen
    assert not seen & {torch.float64, torch.complex64, torch.int64}


@pytest.mark.parametrize("route", ROUTES)
def test_dense_top_edge_wraps_into_the_same_level(route: str) -> None:
    """At x = y = z = 1 the upper corners leave a dense level and must wrap to its start, as in tiny-cuda-nn."""
    grid = layout(HashGridSettings(1, 2, 15, 8, 8))
    assert (grid.scales, grid.sizes) == ((7.0,), (512,))
    params = torch.zeros(512, 2)
    params[(8 + 8 * 8 + 8 * 64) % 512] = 8.0
    top = encode(torch.ones(1, 3), params.view(-1), grid, route=route)  # type: ignore[arg-type]
    torch.testing.assert_close(top, torch.ones(1, 2))


@pytest.mark.parametrize("route", ROUTES)
def test_outside_is_clamped_and_gets_no_gradient(route: str) -> None:
    grid = layout(TINY)
    _, params, _ = example(dtype=torch.float32)
    x = torch.tensor([[-0.5, 0.3, 1.7]], requires_grad=True)
    out = encode(x, params, grid, route=route)  # type: ignore[arg-type]
    torch.testing.assert_close(out, encode(torch.tensor([[0.0, 0.3, 1.0]]), params, grid))
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert slope[0, 0] == 0 and slope[0, 2] == 0 and slope[0, 1] != 0


@pytest.mark.parametrize("route", ROUTES)
def test_no_points_is_no_error(route: str) -> None:
    grid = layout(TINY)
    params = torch.zeros(grid.entries * 2, requires_grad=True)
    out = encode(torch.zeros(0, 3), params, grid, route=route)  # type: ignore[arg-type]
    assert out.shape == (0, 8)
    out.sum().backward()
    assert params.grad is not None and not params.grad.any()


def test_same_seed_gives_the_same_bits() -> None:
    def run() -> tuple[Tensor, Tensor]:
        grid = HashGrid(TINY, generator=seeded(7))
        out = grid(torch.rand(3000, 3, generator=seeded(8)))
        out.square().sum().backward()
        assert grid.params.grad is not None
        return out.detach(), grid.params.grad

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_module_starts_small_and_keeps_one_flat_parameter() -> None:
    grid = HashGrid(HashGridSettings(), generator=seeded())
    assert [(n, tuple(p.shape)) for n, p in grid.named_parameters()] == [("params", (grid.layout.entries * 2,))]
    assert grid.params.dtype == torch.float32
    assert 0.99e-4 < grid.params.abs().max() <= 1e-4
    assert abs(grid.params.mean()) < 1e-6


def test_saves_only_its_inputs_for_the_backward_pass() -> None:
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    x, params, _ = example(points=1000, dtype=torch.float32)
    params.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        encode(x, params, layout(TINY))
    assert sum(saved) <= x.numel() + params.numel()


def test_bench_compares_equal_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PROFILES", {"l16": TINY, "l8": HashGridSettings(levels=5)})
    result = bench.run(repeats=1, points=500)
    for name in ("l16", "l8"):
        for variant in ("vectorised", "gather"):
            assert result[f"gradient_difference_{name}_{variant}"] < 1e-5
            assert result[f"speedup_{name}_vs_{variant}"] > 0
    grid = layout(TINY)
    x, params, _ = example(points=200, dtype=torch.float32)
    for variant in (bench.encode_vectorised, bench.encode_gather):
        torch.testing.assert_close(variant(x, params, grid), encode(x, params, grid), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("base", [5, 6, 7, 9, 11, 13])
def test_rounding_up_into_the_last_cell_still_wraps(base: int) -> None:
    """Just below the last cell float32 may round a position into it; the wrap must then not have been skipped."""
    grid = layout(HashGridSettings(2, 2, 15, base, per_level_scale=1.3))
    params = torch.rand(grid.entries * 2, generator=seeded())
    scale, resolution = grid.scales[1], grid.resolutions[1]
    x = torch.tensor((resolution - 1.5) / scale)
    for _ in range(20):
        x = torch.nextafter(x, torch.tensor(0.0))
    for _ in range(40):
        x = torch.nextafter(x, torch.tensor(2.0))
        point = x.expand(1, 3)
        torch.testing.assert_close(encode(point, params, grid), encode(point, params, grid, route="batched"))
