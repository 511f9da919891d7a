"""One route of ``distill3d bench export`` in a process of its own: ``python -m distill3d.bench.export_job JSON``."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.measure import marching_cubes
from torch import Tensor

from ..mesh import MeshSettings, MeshView, OnStage, SurfaceMesh, TextureSettings, build, convert, read_parts, write
from ..mesh.color import face_weighted_normals
from ..mesh.raster import rasterise
from ..mesh.worker import mesh_worker
from ..optimize.memory import peak_bytes
from ..render.cameras import ring
from ..render.pictures import picture
from ..render.volume import RenderSettings
from ..world.objects import Object

PEAK, SOFTNESS = 400.0, 0.006


class KnownField:
    """A known object as a radiance field with a smooth colour that changes over the surface."""

    def __init__(self, shape: str, softness: float = SOFTNESS) -> None:
        self.object, self.softness = Object(shape, "red"), softness

    def density(self, x: Tensor) -> Tensor:
        return PEAK * torch.sigmoid(-self.object.sdf(x) / self.softness)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        waves = torch.stack([(5 * x[:, 0]).sin(), (4 * x[:, 1]).sin(), (6 * x[:, 2] + x[:, 0]).cos()], -1)
        return self.density(x), 0.5 + 0.4 * waves

    def normals(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.object.sdf(x).sum(), x)
        return torch.nn.functional.normalize(gradient, dim=-1)


def psnr(field: Any, meshes: Sequence[SurfaceMesh], views: int, size: int) -> list[float]:
    """Peak signal-to-noise ratio in dB of each mesh's pictures against the field's, ``views`` on a ring, on white."""
    shown, error = [MeshView(mesh) for mesh in meshes], np.zeros(len(meshes))
    settings = RenderSettings(samples_per_ray=384)
    for camera in (ring(views)[i : i + 1] for i in range(views)):
        truth = picture(field, camera, size, settings=settings).double()
        error += [float((picture(view, camera, size).double() - truth).div(255).square().mean()) for view in shown]
    return [float(value) for value in -10 * np.log10(error / views)]


def likeness(field: Any, job: dict[str, Any]) -> dict[str, float]:
    """Decibels of the textured mesh and of the one with vertex colours and ten times the faces."""
    pair = [ours(field, job, {}), vertices(field, job, {})]
    textured, coloured = psnr(field, pair, job["views"], job["view_size"])
    counts = {"textured_faces": len(pair[0].faces), "vertices_faces": len(pair[1].faces)}
    return {"textured_db": textured, "vertices_db": coloured, **counts}


def timed(stages: dict[str, float]) -> OnStage:
    """A listener that fills ``stages`` with the seconds of each stage."""
    last, begun = "", time.perf_counter()

    def tell(name: str, share: float) -> None:
        nonlocal last, begun
        now = time.perf_counter()
        if name != last:
            last, begun = name, now
        stages[name] = now - begun

    return tell


def ours(field: Any, job: dict[str, Any], stages: dict[str, float]) -> SurfaceMesh:
    """The whole pipeline."""
    settings = MeshSettings(resolution=job["resolution"], face_budget=job["faces"])
    return build(field, settings=settings, texture=TextureSettings(size=job["texture"]), on_stage=timed(stages))


def vertices(field: Any, job: dict[str, Any], stages: dict[str, float]) -> SurfaceMesh:
    """Ten times the faces, as far as there are so many, with vertex colours."""
    settings = MeshSettings(resolution=job["resolution"], face_budget=10 * job["faces"])
    return build(field, settings=settings, on_stage=timed(stages))


def large(field: Any, job: dict[str, Any], stages: dict[str, float], budget: int | None = None) -> SurfaceMesh:
    """A file with many faces, read, decimated to the budget, unwrapped and painted."""
    begun = time.perf_counter()
    parts = read_parts(job["source"])
    stages["read"] = time.perf_counter() - begun
    job["faces_in"] = sum(len(part.faces) for part in parts)
    settings = MeshSettings(face_budget=job["faces"] if budget is None else budget, component_share=0.0)
    return convert(parts, settings, TextureSettings(size=job["texture"]), timed(stages))


def whole(field: Any, job: dict[str, Any], stages: dict[str, float]) -> SurfaceMesh:
    """The same with every face kept."""
    return large(field, job, stages, budget=0)


def prepare(field: Any, job: dict[str, Any]) -> None:
    """The file that ``large`` and ``whole`` read, cut down to its faces from a lattice fine enough to have more."""
    cells = min(1024, max(16, math.ceil(0.9 * math.sqrt(job["input_faces"]))))
    settings = MeshSettings(resolution=cells, face_budget=job["input_faces"])
    write(build(field, settings=settings), job["source"])


def naive(field: Any, job: dict[str, Any], stages: dict[str, float]) -> SurfaceMesh:
    """What is usually done: 256^3, a fixed level, every face to xatlas, the colour of each texel's centre."""
    cells, size = 256, int(job["texture"])
    begun = time.perf_counter()
    step = torch.linspace(-1, 1, cells)
    planes = [torch.stack(torch.meshgrid(x[None], step, step, indexing="ij"), -1).view(-1, 3) for x in step]
    density = torch.stack([field.density(plane).view(cells, cells) for plane in planes]).numpy()
    found, faces, _, _ = marching_cubes(density, PEAK / 2, gradient_direction="ascent")
    vertices = (found / (cells - 1) * 2 - 1).astype(np.float32)
    stages["surface"], begun = time.perf_counter() - begun, time.perf_counter()
    atlas = mesh_worker.unwrap(vertices, faces, size, 4)
    source, triangles, uvs = atlas["source"], atlas["faces"].astype(np.int64), atlas["uvs"]
    stages["unwrap"], begun = time.perf_counter() - begun, time.perf_counter()
    vertices = vertices[source]
    corners = torch.from_numpy(uvs[triangles].astype(np.float64)) * size
    hit = rasterise(corners, size, size)
    points = torch.einsum("nk,nkc->nc", hit.weight.float(), torch.from_numpy(vertices[triangles])[hit.face])
    texture = np.zeros((size * size, 3), np.uint8)
    colors = torch.cat([field(part)[1] for part in points.split(1 << 17)])
    texture[hit.pixel.numpy()] = (colors.clamp(0, 1) * 255).round().byte().numpy()
    stages["bake"] = time.perf_counter() - begun
    normals = face_weighted_normals(vertices, triangles)
    return SurfaceMesh(
        vertices, triangles, normals, vertices * 0 + 0.5, PEAK / 2, uvs=uvs, texture=texture.reshape(size, size, 3)
    )


def peak_memory() -> dict[str, float]:
    """Peak resident memory in MB of this process and the largest of its children; empty where it cannot be told.

    A child counts at least what this process held when it started it.
    """
    try:
        import resource
    except ImportError:
        return {}
    unit = 1e6 if sys.platform == "darwin" else 1e3
    own = peak_bytes(torch.device("cpu"))["process"] / 1e6
    return {"peak_mb": own, "peak_mb_child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit}


def main() -> None:
    """Run the job given as JSON on the command line and write its result."""
    job = json.loads(sys.argv[1])
    out = Path(job["out"])
    field, stages = KnownField(job["shape"]), dict[str, float]()
    begun = time.perf_counter()
    if job["route"] == "prepare":
        prepare(field, job)
        out.write_text(json.dumps({"seconds": time.perf_counter() - begun}))
        return
    if job["route"] == "likeness":
        out.write_text(json.dumps(likeness(field, job)))
        return
    routes = {"ours": ours, "vertices": vertices, "large": large, "whole": whole, "naive": naive}
    mesh = routes[job["route"]](field, job, stages)
    before = time.perf_counter()
    path = write(mesh, out.with_name("mesh.glb"))
    stages["write"] = time.perf_counter() - before
    seconds = time.perf_counter() - begun
    result: dict[str, Any] = {"seconds": seconds, "faces": len(mesh.faces), "file_mb": path.stat().st_size / 1e6}
    if "faces_in" in job:
        result["faces_in"] = job["faces_in"]
    result |= peak_memory() | {f"seconds_{name}": value for name, value in stages.items()}
    if "texture" in mesh.report:
        result["unwrap"] = mesh.report["texture"]["unwrap"]
    if job["views"]:
        (result["psnr_db"],) = psnr(field, [mesh], job["views"], job["view_size"])
    out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
