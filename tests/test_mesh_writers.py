"""Mesh files, read back by trimesh, by hand from the specification, and by the Khronos validator where it is there."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from mesh_fields import CORNERS, WavyField, poster

from distill3d.errors import OutputError, SettingsError
from distill3d.mesh import MeshSettings, SurfaceMesh, TextureSettings, build, convert, write
from distill3d.mesh.color import srgb_to_linear
from distill3d.mesh.load import read_parts
from distill3d.mesh.writers import double_sided, joined

SUFFIXES = ["glb", "obj", "ply"]
ALL = [*SUFFIXES, "stl", "usdz"]
METADATA = {
    "prompt": 'a "red" ✓ cube\nwith a line',
    "seed": 3,
    "loss": float("nan"),
    "nested": [1, {"a": np.float32(2)}],
}


@pytest.fixture
def mesh() -> SurfaceMesh:
    """A closed box of unequal sides, off-centre so that no axis can be swapped or flipped unseen."""
    solid = trimesh.creation.box(extents=(0.2, 0.6, 1.0)).subdivide()
    vertices = (solid.vertices + np.array([0.3, 0.2, -0.1])).astype(np.float32)
    colors = np.random.default_rng(0).random(vertices.shape).astype(np.float32)
    colors[0], colors[1] = 0, 1
    return SurfaceMesh(
        vertices, np.asarray(solid.faces, np.int64), solid.vertex_normals.astype(np.float32), colors, 10.0, {}
    )


def read_glb(data: bytes) -> tuple[dict[str, Any], bytes]:
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    body, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and body % 4 == 0 and 28 + length + body == total
    return document, data[28 + length :]


def accessor(document: dict[str, Any], body: bytes, index: int) -> np.ndarray:
    item = document["accessors"][index]
    view = document["bufferViews"][item["bufferView"]]
    kind = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[item["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[item["type"]]
    data = np.frombuffer(body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]], kind)
    assert len(data) == item["count"] * width
    return data.reshape(-1, width)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_trimesh_reads_back_what_was_written(mesh: SurfaceMesh, tmp_path: Path, suffix: str) -> None:
    path = write(mesh, tmp_path / "new" / f"thing.{suffix}", METADATA)
    (found,) = trimesh.load_scene(path, process=False, maintain_order=True).geometry.values()
    assert np.array_equal(found.faces, mesh.faces)
    assert found.vertices == pytest.approx(mesh.vertices, abs=1e-6)
    assert found.vertex_normals == pytest.approx(mesh.normals, abs=1e-4)
    assert found.is_watertight and found.volume == pytest.approx(0.2 * 0.6 * 1.0, rel=1e-5)
    assert found.bounds == pytest.approx(np.array([[0.2, -0.1, -0.6], [0.4, 0.5, 0.4]]), abs=1e-6)
    if suffix != "glb":
        assert found.visual.vertex_colors[:, :3] / 255 == pytest.approx(mesh.colors, abs=1 / 255)


def test_glb_structure(mesh: SurfaceMesh, tmp_path: Path) -> None:
    document, body = read_glb(write(mesh, tmp_path / "a.glb", METADATA).read_bytes())
    assert document["asset"]["version"] == "2.0"
    (primitive,) = document["meshes"][0]["primitives"]
    names = primitive["attributes"]
    position = accessor(document, body, names["POSITION"])
    assert np.array_equal(position, mesh.vertices)
    assert document["accessors"][names["POSITION"]]["min"] == position.min(0).tolist()
    assert document["accessors"][names["POSITION"]]["max"] == position.max(0).tolist()
    assert np.linalg.norm(accessor(document, body, names["NORMAL"]), axis=-1) == pytest.approx(1, abs=1e-4)
    assert np.array_equal(accessor(document, body, primitive["indices"]).reshape(-1, 3), mesh.faces)
    assert document["buffers"] == [{"byteLength": len(body)}]
    ends = 0
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] >= ends
        ends = view["byteOffset"] + view["byteLength"]
    assert ends <= len(body)
    (material,) = document["materials"]
    assert material["pbrMetallicRoughness"]["baseColorFactor"] == [1, 1, 1, 1]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0 and material["doubleSided"] is False


def test_glb_colours_are_linear(mesh: SurfaceMesh, tmp_path: Path) -> None:
    mesh.colors[:] = [0.5, 0.0, 1.0]
    document, body = read_glb(write(mesh, tmp_path / "a.glb").read_bytes())
    index = document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    assert document["accessors"][index]["normalized"] is True
    rgba = accessor(document, body, index) / 65535
    assert rgba == pytest.approx(np.tile([0.214041, 0, 1, 1], (len(rgba), 1)), abs=1e-4)


def test_metadata_reaches_every_format(mesh: SurfaceMesh, tmp_path: Path) -> None:
    expected = {"prompt": METADATA["prompt"], "seed": 3, "loss": None, "nested": [1, {"a": 2.0}]}
    document, _ = read_glb(write(mesh, tmp_path / "a.glb", METADATA).read_bytes())
    assert document["asset"]["extras"] == expected
    for suffix, start in (("obj", b"# metadata "), ("ply", b"comment metadata ")):
        lines = write(mesh, tmp_path / f"a.{suffix}", METADATA).read_bytes().split(b"\n")
        (found,) = [line[len(start) :] for line in lines[:6] if line.startswith(start)]
        assert json.loads(found) == expected


def test_holes_make_the_material_double_sided(mesh: SurfaceMesh, tmp_path: Path) -> None:
    mesh.faces = mesh.faces[1:]
    document, _ = read_glb(write(mesh, tmp_path / "a.glb").read_bytes())
    assert document["materials"][0]["doubleSided"] is True


@pytest.mark.parametrize("inward", ["all", "one part"])
def test_what_faces_inward_is_seen_from_both_sides_and_said(inward: str, tmp_path: Path) -> None:
    near, far = trimesh.creation.box(), trimesh.creation.icosphere(1)
    far.apply_translation([3, 0, 0])
    far.invert()
    if inward == "all":
        near.invert()
    trimesh.util.concatenate([near, far]).export(tmp_path / "a.off")
    mesh = convert(read_parts(tmp_path / "a.off"))
    document, _ = read_glb(write(mesh, tmp_path / "a.glb").read_bytes())
    assert document["materials"][0]["doubleSided"] is True
    assert (
        "uniform bool doubleSided = 1" in zipfile.ZipFile(write(mesh, tmp_path / "a.usdz")).read("object.usda").decode()
    )
    assert any("faces inward" in text for text in mesh.report["warnings"])


@pytest.mark.parametrize("suffix", ["obj", "usdz"])
def test_text_keeps_every_digit_of_a_vertex(suffix: str, tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(2, radius=0.5)
    ball.apply_translation([400, 0, 0])
    ball.export(tmp_path / "a.ply")
    mesh = convert(read_parts(tmp_path / "a.ply"))
    path = write(mesh, tmp_path / f"b.{suffix}")
    text = path.read_text() if suffix == "obj" else zipfile.ZipFile(path).read("object.usda").decode()
    if suffix == "obj":
        rows = [line.split()[1:4] for line in text.splitlines() if line.startswith("v ")]
    else:
        rows = re.findall(r"\(([^()]*)\)", text.split("points = [")[1].split("]")[0])
        rows = [row.split(",") for row in rows]
    assert {tuple(row) for row in np.float32(rows).tolist()} == {tuple(row) for row in mesh.vertices.tolist()}


def large() -> SurfaceMesh:
    """A flat grid of 260 x 260 vertices that faces +z."""
    n = 260
    x, y = np.meshgrid(np.linspace(-0.9, 0.9, n), np.linspace(-0.9, 0.9, n))
    vertices = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3).astype(np.float32)
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1)
    faces = np.concatenate([corner[:, None] + [0, 1, n], corner[:, None] + [1, n + 1, n]])
    return SurfaceMesh(vertices, faces, np.tile(np.float32([0, 0, 1]), (n * n, 1)), np.abs(vertices), 1.0)


def test_many_vertices_get_wide_indices(tmp_path: Path) -> None:
    big = large()
    assert len(big.vertices) > 65535
    document, body = read_glb(write(big, tmp_path / "a.glb").read_bytes())
    assert np.array_equal(accessor(document, body, 0).reshape(-1, 3), big.faces)


@pytest.mark.parametrize("suffix", ALL)
def test_full_disk_leaves_the_old_file_and_nothing_else(
    mesh: SurfaceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = write(mesh, tmp_path / f"a.{suffix}")
    before = path.read_bytes()
    mesh.vertices = mesh.vertices * 0.5

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place, name in ((Path, "write_bytes"), (os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OutputError, match="disk is full"):
                write(mesh, path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    write(mesh, path)
    assert path.read_bytes() != before


def test_interrupt_leaves_nothing_half_written(
    mesh: SurfaceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(mesh, tmp_path / "a.glb")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_named(mesh: SurfaceMesh, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another"):
        write(mesh, tmp_path / "file" / "a.glb")
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(OutputError):
        write(mesh, tmp_path / "folder.glb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.glb"]


def test_unknown_suffix_is_an_error_before_anything_is_written(mesh: SurfaceMesh, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.glb, \.obj, \.ply, \.stl, \.usdz"):
        write(mesh, tmp_path / "deep" / "a.fbx")
    assert list(tmp_path.iterdir()) == []
    assert write(mesh, str(tmp_path / "A.GLB")).exists()


VALIDATE = """
const validator = require('gltf-validator'), fs = require('fs');
(async () => {
  const found = [];
  for (const path of process.argv.slice(1)) {
    found.push((await validator.validateBytes(new Uint8Array(fs.readFileSync(path)))).issues);
  }
  console.log(JSON.stringify(found));
})();
"""


def test_khronos_validator_finds_nothing(mesh: SurfaceMesh, tmp_path: Path) -> None:
    folder, node = os.environ.get("GLTF_VALIDATOR"), shutil.which("node")
    if not folder or not node:
        pytest.skip("needs node and GLTF_VALIDATOR=<folder with node_modules/gltf-validator> (npm i gltf-validator)")
    paths = [write(mesh, tmp_path / "a.glb", METADATA), write(large(), tmp_path / "b.glb")]
    mesh.faces = mesh.faces[1:]
    paths.append(write(mesh, tmp_path / "c.glb"))
    paths.append(write(poster(), tmp_path / "d.glb", METADATA))
    jpeg = poster()
    jpeg.image, jpeg.occlusion = "jpeg", None
    paths.append(write(jpeg, tmp_path / "e.glb"))
    field = WavyField("torus")
    baked = build(field, settings=MeshSettings(resolution=32), texture=TextureSettings(size=128, occlusion=True))
    paths.append(write(baked, tmp_path / "f.glb", baked.report))
    command = [node, "-e", VALIDATE, *map(str, paths)]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    for issues in json.loads(output):
        assert issues["numErrors"] == issues["numWarnings"] == issues["numInfos"] == 0, issues["messages"]


def sampled(found: trimesh.Trimesh) -> dict[tuple[int, int], list[int]]:
    """The picture's colour at the texel nearest each vertex, by the sign of the vertex's x and y."""
    material = found.visual.material
    picture = material.baseColorTexture if hasattr(material, "baseColorTexture") else material.image
    pixels = np.asarray(picture.convert("RGB"))
    uv = np.clip(found.visual.uv, 0.01, 0.99)
    rows, columns = ((1 - uv[:, 1]) * len(pixels)).astype(int), (uv[:, 0] * pixels.shape[1]).astype(int)
    signs = np.sign(found.vertices[:, :2]).astype(int).tolist()
    return {(x, y): pixels[r, c].tolist() for (x, y), r, c in zip(signs, rows, columns, strict=True)}


UPRIGHT = {(-1, 1): "left up", (1, 1): "right up", (-1, -1): "left down", (1, -1): "right down"}


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_trimesh_finds_the_texture_the_right_way_up(tmp_path: Path, suffix: str) -> None:
    (found,) = trimesh.load_scene(write(poster(), tmp_path / f"a.{suffix}"), process=False).geometry.values()
    assert len(found.faces) == 2
    assert sampled(found) == {place: list(CORNERS[name]) for place, name in UPRIGHT.items()}
    assert found.face_normals == pytest.approx(np.tile([0, 0, 1], (2, 1)))


def test_glb_with_a_texture(tmp_path: Path) -> None:
    document, body = read_glb(write(poster(), tmp_path / "a.glb").read_bytes())
    (primitive,) = document["meshes"][0]["primitives"]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TANGENT", "TEXCOORD_0"}
    (material,) = document["materials"]
    assert {"normalTexture", "occlusionTexture"} < set(material) and material["doubleSided"]
    assert [image["mimeType"] for image in document["images"]] == ["image/png"] * 3
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    assert "target" not in view
    assert body[view["byteOffset"] :][:8] == b"\x89PNG\r\n\x1a\n"


def test_a_seam_is_no_hole() -> None:
    """A baked closed mesh has vertices twice along seams and is still drawn single-sided, and joined in OBJ and PLY."""
    field = WavyField("sphere")
    baked = build(field, settings=MeshSettings(resolution=24), texture=TextureSettings(size=64, unwrap="box"))
    plain = build(field, settings=MeshSettings(resolution=24))
    assert len(baked.vertices) > len(plain.vertices)
    assert not double_sided(baked)
    first, place = joined(baked)
    assert len(first) == len(plain.vertices) and np.array_equal(baked.vertices[first][place], baked.vertices)


def test_obj_names_its_materials_and_survives_odd_names(tmp_path: Path) -> None:
    path = write(poster(), tmp_path / "my poster é.obj")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted([path.name, "my_poster__.mtl", "my_poster___color.png", "my_poster___normal.png",
                            "my_poster___occlusion.png"])  # fmt: skip
    text = path.read_text()
    assert "mtllib my_poster__.mtl" in text and "usemtl baked" in text
    assert "map_Kd my_poster___color.png" in (tmp_path / "my_poster__.mtl").read_text()


def test_full_disk_leaves_no_part_of_a_textured_obj(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [0]
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        written[0] += 1
        if written[0] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        write(poster(), tmp_path / "a.obj")
    assert list(tmp_path.iterdir()) == []


def test_an_obj_replaces_its_own_companions_and_nobody_elses(tmp_path: Path) -> None:
    """A foreign MTL and picture of the names that ours would have stay as they are."""
    foreign = {"a.mtl": b"newmtl bricks\nmap_Kd bricks.png\n", "a_normal.png": b"\x89PNG\r\n\x1a\nof somebody else"}
    for name, data in foreign.items():
        (tmp_path / name).write_bytes(data)
    for _ in range(2):  # the second time our own files are replaced
        write(poster(), tmp_path / "a.obj")
        assert {name: (tmp_path / name).read_bytes() for name in foreign} == foreign
        ours = {"a.obj", "a-2.mtl", "a-2_color.png", "a-2_normal.png", "a-2_occlusion.png"}
        assert {p.name for p in tmp_path.iterdir()} == ours | set(foreign)
    (found,) = trimesh.load_scene(tmp_path / "a.obj", process=False).geometry.values()
    assert sampled(found) == {place: list(CORNERS[name]) for place, name in UPRIGHT.items()}


def test_stl_holds_the_shape(mesh: SurfaceMesh, tmp_path: Path) -> None:
    found = trimesh.load(write(mesh, tmp_path / "a.stl"))
    assert len(found.faces) == len(mesh.faces) and found.is_watertight
    assert found.volume == pytest.approx(0.12, rel=1e-5)


def test_usdz_is_a_stored_zip_with_aligned_files(tmp_path: Path) -> None:
    path = write(poster(), tmp_path / "a.usdz", METADATA)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == ["object.usda", "textures/color.png", "textures/normal.png", "textures/occlusion.png"]
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
            name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
            assert (info.header_offset + 30 + name + extra) % 64 == 0


def test_usd_reads_usdz(mesh: SurfaceMesh, tmp_path: Path) -> None:
    usd = pytest.importorskip("pxr.Usd", reason="needs usd-core")
    from pxr import UsdGeom, UsdShade

    stage = usd.Stage.Open(str(write(poster(), tmp_path / "a.usdz", METADATA)))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    found = UsdGeom.Mesh(stage.GetPrimAtPath("/Object/Mesh"))
    assert np.array(found.GetPointsAttr().Get()) == pytest.approx(poster().vertices)
    st = np.array(UsdGeom.PrimvarsAPI(found).GetPrimvar("st").Get())
    assert st.tolist() == [[0, 1], [1, 1], [0, 0], [1, 0]]
    surface = UsdShade.Material(stage.GetPrimAtPath("/Object/Material")).ComputeSurfaceSource()[0]
    assert surface.GetInput("normal").HasConnectedSource() and surface.GetInput("diffuseColor").HasConnectedSource()
    texture = UsdShade.Shader(stage.GetPrimAtPath("/Object/Material/color"))
    assert texture.GetInput("sourceColorSpace").Get() == "sRGB"
    assert json.loads(stage.GetRootLayer().customLayerData["metadata"])["seed"] == 3
    plain = usd.Stage.Open(str(write(mesh, tmp_path / "b.usdz")))
    colors = np.array(UsdGeom.Mesh(plain.GetPrimAtPath("/Object/Mesh")).GetDisplayColorAttr().Get())
    assert colors == pytest.approx(srgb_to_linear(mesh.colors.astype(float)), abs=1e-4)


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl", "usdz"])
def test_blender_reads_every_format_upright(tmp_path: Path, suffix: str) -> None:
    bpy = pytest.importorskip("bpy", reason="needs Blender as a module (bpy)")
    path = str(write(poster(), tmp_path / f"a.{suffix}"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    axes = {"forward_axis": "NEGATIVE_Z", "up_axis": "Y"}
    readers = {
        "glb": lambda: bpy.ops.import_scene.gltf(filepath=path),
        "obj": lambda: bpy.ops.wm.obj_import(filepath=path),
        "ply": lambda: bpy.ops.wm.ply_import(filepath=path, **axes),
        "stl": lambda: bpy.ops.wm.stl_import(filepath=path, **axes),
        "usdz": lambda: bpy.ops.wm.usd_import(filepath=path),
    }
    readers[suffix]()
    (item,) = [o for o in bpy.data.objects if o.type == "MESH"]
    world = [item.matrix_world @ v.co for v in item.data.vertices]
    places = sorted(tuple(round(c, 4) for c in v) for v in world)
    # Blender is z up: our y is its z, and our front +z its -y
    assert sorted(set(places)) == [(-0.5, 0, -0.5), (-0.5, 0, 0.5), (0.5, 0, -0.5), (0.5, 0, 0.5)]
    assert len(item.data.polygons) == 2
    normal = item.matrix_world.to_3x3() @ item.data.polygons[0].normal
    assert [round(c, 4) for c in normal] == [0, -1, 0]
    if suffix in ("glb", "obj", "usdz"):
        image = next(i for i in bpy.data.images if tuple(i.size) == (16, 16) and "normal" not in i.name
                     and "occlusion" not in i.name)  # fmt: skip
        assert image.colorspace_settings.name == "sRGB"
        pixels = np.array(image.pixels[:]).reshape(16, 16, -1)
        layer = item.data.uv_layers.active.data
        for loop in item.data.loops:
            u, v = np.clip(layer[loop.index].uv, 0.01, 0.99)
            x, _, z = (np.sign(c) for c in world[loop.vertex_index])
            expected = np.array(CORNERS[UPRIGHT[int(x), int(z)]]) / 255
            assert pixels[int(v * 16), int(u * 16), :3] == pytest.approx(expected, abs=0.01)


def test_a_prompt_with_the_word_that_ends_a_ply_header(tmp_path: Path) -> None:
    """Readers look for the word; a file of another program may have it in a comment all the same."""
    prompt = "a sign, end_header on it"
    ball = trimesh.creation.icosphere(1)
    path = tmp_path / "a.ply"
    mesh = SurfaceMesh(
        np.asarray(ball.vertices, np.float32), np.asarray(ball.faces), np.asarray(ball.vertex_normals, np.float32),
        np.full((len(ball.vertices), 3), 0.5, np.float32), 0.0, {},
    )  # fmt: skip
    write(mesh, path, {"prompt": prompt})
    assert len(trimesh.load(path, process=False).faces) == len(ball.faces)
    header = path.read_bytes().split(b"end_header\n")[0].decode()
    assert json.loads(re.search(r"comment metadata (.*)", header)[1])["prompt"] == prompt
    raw = path.read_bytes().replace(b"comment Distill3D", b"comment end_header Distill3D", 1)
    path.write_bytes(raw)
    (part,) = read_parts(path)
    assert len(part.faces) == len(ball.faces)
