"""The tinycudann adapter on a CPU, over a stand-in encoding written from tiny-cuda-nn's own grid arithmetic.

``include/tiny-cuda-nn/encodings/grid.h`` and ``common_device.h``: scale, resolution, table size, hash and corner order,
from the configuration that the adapter hands over. What the package itself answers is tried on CUDA alone.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import math
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill3d.errors import BackendError
from distill3d.fields import backends, hashgrid
from distill3d.fields.hashgrid import HashGridSettings, encode, layout

PRIMES = (1, 2654435761, 805459861)


class Encoding(nn.Module):
    """``tinycudann.Encoding`` of type HashGrid with linear interpolation."""

    extra = 0

    def __init__(self, dimensions: int, config: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        assert dimensions == 3 and dtype == torch.float32
        assert (config["otype"], config["interpolation"]) == ("HashGrid", "Linear")
        self.features, self.levels = config["n_features_per_level"], []
        start = 0
        for level in range(config["n_levels"]):
            scale = math.exp2(level * math.log2(config["per_level_scale"])) * config["base_resolution"] - 1
            resolution = math.ceil(torch.tensor(scale, dtype=torch.float32).item()) + 1
            size = min(-(-(resolution**3) // 8) * 8, 2 ** config["log2_hashmap_size"])
            self.levels.append((scale, resolution, size, start))
            start += size
        self.params = nn.Parameter(torch.zeros(start * self.features + self.extra))

    def forward(self, x: Tensor) -> Tensor:
        table, found = self.params.view(-1, self.features), []
        for scale, resolution, size, start in self.levels:
            position = x * scale + 0.5
            cell = position.detach().floor()
            fraction, total = position - cell, 0.0
            for corner in range(8):
                bits = [corner >> axis & 1 for axis in range(3)]
                place = [cell[:, axis].long() + bits[axis] for axis in range(3)]
                if size < resolution**3:
                    terms = [p * prime % 2**32 for p, prime in zip(place, PRIMES, strict=True)]
                    index = terms[0] ^ terms[1] ^ terms[2]
                else:
                    index = place[0] + resolution * (place[1] + resolution * place[2])
                weight = torch.ones_like(fraction[:, 0])
                for axis in range(3):
                    weight = weight * (fraction[:, axis] if bits[axis] else 1 - fraction[:, axis])
                total = total + weight[:, None] * table[start + index % size]
            found.append(total)
        return torch.cat(found, 1)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("tinycudann")
    module.__spec__ = importlib.machinery.ModuleSpec("tinycudann", None)
    module.Encoding = Encoding  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    monkeypatch.delitem(sys.modules, "distill3d.fields.interpolate_tinycudann", raising=False)
    monkeypatch.setattr(backends, "_probed", {})
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return module


@pytest.mark.parametrize("features", [1, 2, 4])
def test_values_and_gradients_are_the_torch_loop_s(package: ModuleType, features: int) -> None:
    grid, draw = layout(HashGridSettings(5, features, 9, 4, 37)), torch.Generator().manual_seed(1)
    assert 0 < grid.dense < 5
    x = torch.rand(200, 3, generator=draw)
    params = torch.rand(grid.entries * features, generator=draw) - 0.5
    upstream = torch.randn(200, 5 * features, generator=draw)
    answers = []
    for route in ("tinycudann", "loop"):
        a, b = x.clone().requires_grad_(), params.clone().requires_grad_()
        out = encode(a, b, grid, route=route)  # type: ignore[arg-type]
        answers.append([out.detach(), *torch.autograd.grad(out, (a, b), upstream)])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-4)


def test_features_it_is_not_compiled_for_are_looked_up_otherwise(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashgrid, "choose", lambda device, name="auto": "tinycudann")
    three, two = (
        hashgrid.HashGrid(HashGridSettings(2, features, 9, 4, 37), generator=torch.Generator()) for features in (3, 2)
    )
    assert three._route() == "batched" and two._route() == "tinycudann"
    assert three(torch.rand(4, 3)).shape == (4, 6)
    with pytest.raises(BackendError, match="1, 2, 4, 8 features a level, got 3"):
        three.use("tinycudann")


def test_no_points_and_second_derivatives_are_ours(package: ModuleType) -> None:
    grid = layout(HashGridSettings(2, 2, 6, 2, 4))
    params = torch.rand(grid.entries * 2, dtype=torch.float32, requires_grad=True)
    empty = torch.zeros(0, 3, requires_grad=True)
    encode(empty, params, grid, route="tinycudann").sum().backward()
    assert params.grad is not None and not params.grad.any()
    x = torch.rand(4, 3, requires_grad=True)
    found = []
    for route in ("tinycudann", "plain"):
        (slope,) = torch.autograd.grad(
            encode(x, params, grid, route=route).square().sum(),  # type: ignore[arg-type]
            x,
            create_graph=True,
        )
        found.append(torch.autograd.grad(slope.square().sum(), params)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_another_table_or_precision_is_refused(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = layout(HashGridSettings(2, 2, 6, 2, 4))
    with pytest.raises(TypeError, match="float32 table"):
        encode(torch.rand(4, 3).double(), torch.rand(grid.entries * 2).double(), grid, route="tinycudann")
    monkeypatch.setattr(Encoding, "extra", 8)
    with pytest.raises(ValueError, match=r"expected a table of \d+ numbers, tiny-cuda-nn makes one of \d+"):
        encode(torch.rand(4, 3), torch.rand(grid.entries * 2), grid, route="tinycudann")


def test_on_a_cpu_it_is_refused_even_where_it_is_installed(package: ModuleType) -> None:
    with pytest.raises(BackendError, match="computes on cuda"):
        backends.choose("cpu", "tinycudann")
