"""The default CPU route gives the very bits it gave before: published figures depend on them.

Bits differ between processors and versions of torch, so they are recorded for each; elsewhere the test is skipped.
``python tests/test_same_bits.py`` prints this machine's entry for ``golden/bits.json``: add one only from code whose
results are meant to be kept.
"""

from __future__ import annotations

import json
import platform
import sys
import zlib
from pathlib import Path

import pytest
import torch
from small_run import SMALL, make_prior
from torch import Tensor

from distill3d.fields.density import DensityField, FieldSettings
from distill3d.optimize import Distillation
from distill3d.render import regularisers
from distill3d.render.cameras import orbit
from distill3d.render.occupancy import OccupancyGrid
from distill3d.render.shading import headlight
from distill3d.render.volume import RenderSettings, render

RECORDED = Path(__file__).parent / "golden" / "bits.json"


def machine() -> str:
    """What bits depend on: torch, its instruction set, and the processor's own features."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else [platform.processor()]
    about = [line for line in lines if line.split("\t")[0].strip() in ("vendor_id", "cpu family", "model", "flags")]
    code = zlib.crc32("\n".join(sorted(set(about))).encode())
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, processor {code:08x}"


def digest(*tensors: Tensor) -> str:
    code = 0
    for tensor in tensors:
        code = zlib.crc32(tensor.detach().contiguous().numpy().tobytes(), code)
    return f"{code:08x}"


def picture(max_points: int) -> str:
    """One lit picture of a new field, its regularisers and all gradients."""
    field = DensityField(FieldSettings(), generator=torch.Generator().manual_seed(3))
    grid = OccupancyGrid(24)
    grid.update(field, step_size=0.05, generator=torch.Generator().manual_seed(4), warmup=True)
    cameras = orbit([20, 200], [10, 40])
    made = render(
        field,
        cameras,
        32,
        32,
        background=torch.ones(3),
        occupancy=grid,
        settings=RenderSettings(samples_per_ray=64, max_points=max_points),
        shading=headlight(cameras),
        generator=torch.Generator().manual_seed(5),
    )
    names = ("sparsity", "opaque", "entropy", "orientation", "distortion", "distance")
    loss = made.rgb.square().mean() + sum(getattr(regularisers, name)(made) for name in names)
    loss.backward()
    return digest(made.rgb, made.depth, loss, *(p.grad for p in field.parameters() if p.grad is not None))


def run() -> str:
    distillation = Distillation(make_prior(), "a red ball", SMALL)
    distillation.run()
    return digest(*distillation.field.parameters(), distillation.occupancy.density)


def measure() -> dict[str, str]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"picture": picture(1 << 20), "picture in chunks": picture(2000), "run": run()}
    finally:
        torch.set_num_threads(threads)


def test_default_results_are_the_recorded_bits() -> None:
    known = json.loads(RECORDED.read_text(encoding="utf-8"))
    if machine() not in known:
        pytest.skip(f"nothing recorded for {machine()}")
    assert measure() == known[machine()]


if __name__ == "__main__":
    sys.stdout.write(json.dumps({machine(): measure()}, indent=1) + "\n")
