"""A baked object read back by other programs: as many vertices, the field's colour at known points, upright.

trimesh always; Blender (bpy) and usd-core where they are installed; every format, PNG and JPEG, normal map, occlusion.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from mesh_fields import WavyField
from PIL import Image

from distill3d.mesh import MeshSettings, SurfaceMesh, TextureSettings, build, write
from distill3d.mesh.writers import joined

FIELD = WavyField("cone")
"""Its apex is up, its colour changes along all axes: no axis can be swapped, flipped or turned unseen."""
NEAR = {"png": 0.02, "jpeg": 0.03}
CASES = [("glb", "png"), ("glb", "jpeg"), ("obj", "png"), ("usdz", "png")]


@pytest.fixture(scope="module")
def cone() -> SurfaceMesh:
    texture = TextureSettings(size=256, unwrap="box", occlusion=True)
    mesh = build(FIELD, settings=MeshSettings(resolution=40, face_budget=1500), texture=texture)
    assert len(mesh.vertices) > len(joined(mesh)[0]) > 500
    return mesh


def error(picture: np.ndarray, uvs: np.ndarray, points: np.ndarray) -> float:
    """Mean difference, 0..1, of ``(H, W, 3)`` floats with row 0 at the top, at uvs with v upwards, from the field."""
    height, width = picture.shape[:2]
    rows = ((1 - uvs[:, 1]) * height).astype(int).clip(0, height - 1)
    columns = (uvs[:, 0] * width).astype(int).clip(0, width - 1)
    true = FIELD.albedo(torch.from_numpy(np.ascontiguousarray(points, np.float32))).numpy()
    return float(np.abs(picture[rows, columns] - true).mean())


def middles(corners: np.ndarray) -> np.ndarray:
    """Middles ``(F, C)`` of faces from ``(F, 3, C)``: seams and their filtering play no part there."""
    return np.asarray(corners, np.float64).mean(1)


@pytest.mark.parametrize(("suffix", "image"), [*CASES[:3], ("ply", "png"), ("stl", "png")])
def test_trimesh(cone: SurfaceMesh, tmp_path: Path, suffix: str, image: Any) -> None:
    path = write(dataclasses.replace(cone, image=image), tmp_path / f"a.{suffix}")
    (found,) = trimesh.load_scene(path, process=False, maintain_order=suffix != "obj").geometry.values()
    count = {"glb": len(cone.vertices), "ply": len(joined(cone)[0]), "stl": 3 * len(cone.faces)}
    assert len(found.faces) == len(cone.faces) and len(found.vertices) == count.get(suffix, len(cone.vertices))
    assert found.bounds == pytest.approx(np.stack([cone.vertices.min(0), cone.vertices.max(0)]), abs=1e-5)
    assert (found.face_normals * found.triangles_center).sum(1).mean() > 0
    if suffix in ("glb", "obj"):
        material = found.visual.material
        picture = material.baseColorTexture if suffix == "glb" else material.image
        assert picture.format == image.upper()
        pixels = np.asarray(picture.convert("RGB")) / 255
        assert error(pixels, middles(found.visual.uv[found.faces]), found.triangles_center) < NEAR[image]
    elif suffix == "ply":
        true = FIELD.albedo(torch.from_numpy(np.asarray(found.vertices, np.float32))).numpy()
        assert np.abs(found.visual.vertex_colors[:, :3] / 255 - true).mean() < 0.03


def test_usd(cone: SurfaceMesh, tmp_path: Path) -> None:
    usd = pytest.importorskip("pxr.Usd", reason="needs usd-core")
    from pxr import UsdGeom, UsdShade

    path = write(cone, tmp_path / "a.usdz", {"prompt": "a cone"})
    stage = usd.Stage.Open(str(path))
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Object/Mesh"))
    points = np.array(mesh.GetPointsAttr().Get())
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    assert points == pytest.approx(cone.vertices, abs=1e-6) and np.array_equal(faces, cone.faces)
    uvs = np.array(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get())
    spaces = {"color": "sRGB", "normal": "raw", "occlusion": "raw"}
    for name, space in spaces.items():
        shader = UsdShade.Shader(stage.GetPrimAtPath(f"/Object/Material/{name}"))
        assert shader.GetInput("sourceColorSpace").Get() == space
        resolved = shader.GetInput("file").Get().resolvedPath
        assert resolved.endswith(f"[textures/{name}.png]"), resolved
        with zipfile.ZipFile(path) as archive:
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(f"textures/{name}.png"))).convert("RGB")) / 255
        if name == "color":
            assert error(pixels, middles(uvs[faces]), middles(points[faces])) < NEAR["png"]
    extent = np.array(mesh.GetExtentAttr().Get())
    assert extent == pytest.approx(np.stack([cone.vertices.min(0), cone.vertices.max(0)]), abs=1e-6)


def imported(path: Path) -> Any:
    """The one mesh object that Blender finds in a file."""
    bpy = pytest.importorskip("bpy", reason="needs Blender as a module (bpy)")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    axes = {"forward_axis": "NEGATIVE_Z", "up_axis": "Y"}
    name = str(path)
    readers: dict[str, Callable[[], Any]] = {
        ".glb": lambda: bpy.ops.import_scene.gltf(filepath=name),
        ".obj": lambda: bpy.ops.wm.obj_import(filepath=name),
        ".ply": lambda: bpy.ops.wm.ply_import(filepath=name, **axes),
        ".stl": lambda: bpy.ops.wm.stl_import(filepath=name, **axes),
        ".usdz": lambda: bpy.ops.wm.usd_import(filepath=name),
    }
    readers[path.suffix]()
    (item,) = [o for o in bpy.data.objects if o.type == "MESH"]
    return item


def linked(item: Any, kind: str) -> list[Any]:
    """Pictures in the material's nodes that reach the surface through a node of ``kind``."""
    nodes = item.data.materials[0].node_tree.nodes
    found = []
    for node in nodes:
        if node.type == kind:
            found += [
                link.from_node.image for s in node.inputs for link in s.links if link.from_node.type == "TEX_IMAGE"
            ]
    return found


def pixels_of(image: Any) -> np.ndarray:
    width, height = image.size
    return np.array(image.pixels[:]).reshape(height, width, -1)[::-1, :, :3]


@pytest.mark.parametrize(("suffix", "image"), [*CASES, ("ply", "png"), ("stl", "png")])
def test_blender(cone: SurfaceMesh, tmp_path: Path, suffix: str, image: Any) -> None:
    item = imported(write(dataclasses.replace(cone, image=image), tmp_path / f"a.{suffix}"))
    split = suffix in ("glb", "usdz")  # these keep vertices twice along seams, the others join them
    assert len(item.data.vertices) == (len(cone.vertices) if split else len(joined(cone)[0]))
    assert len(item.data.polygons) == len(cone.faces)
    # Blender is z up: our y is its z, our z its -y
    world = np.array([item.matrix_world @ v.co for v in item.data.vertices])[:, [0, 2, 1]] * [1, 1, -1]
    assert np.stack([world.min(0), world.max(0)]) == pytest.approx(
        np.stack([cone.vertices.min(0), cone.vertices.max(0)]), abs=1e-4
    )
    faces = np.array([p.vertices[:] for p in item.data.polygons])
    if suffix == "ply":
        colors = np.array([c.color_srgb[:3] for c in item.data.color_attributes[0].data])
        true = FIELD.albedo(torch.from_numpy(world.astype(np.float32))).numpy()
        assert np.abs(colors - true).mean() < 0.03
    if (suffix, image) not in CASES:
        return
    (colour,) = linked(item, "BSDF_PRINCIPLED")
    (normal,) = linked(item, "NORMAL_MAP")
    assert colour.colorspace_settings.name == "sRGB"
    if suffix != "obj":  # MTL has no word for it, and Blender takes every picture of an OBJ for a colour
        assert normal.colorspace_settings.name == "Non-Color"
    corners = np.array([p.loop_indices[:] for p in item.data.polygons])
    uvs = np.array([loop.uv[:] for loop in item.data.uv_layers.active.data])
    assert error(pixels_of(colour), middles(uvs[corners]), middles(world[faces])) < NEAR[image]
    assert np.median(pixels_of(normal).reshape(-1, 3), 0) == pytest.approx([0.5, 0.5, 1], abs=0.1)
