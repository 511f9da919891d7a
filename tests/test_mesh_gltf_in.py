"""glTF as others write it: where each texture lies, what multiplies it, unusual numbers and poses; by closed forms."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from distill3d.errors import MeshFileError
from distill3d.mesh import MeshSettings, TextureSettings, convert_for, read, write
from distill3d.mesh.load import read_parts

N = 13
KINDS = {"f4": 5126, "u1": 5121, "u2": 5123, "u4": 5125, "i1": 5120, "i2": 5122}
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
TILE = np.random.default_rng(0).integers(30, 256, (4, 8, 3)).astype(np.uint8)
"""Eight texels wide and four high, all different."""


def lit(color: np.ndarray) -> np.ndarray:
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def shown(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


class Made:
    """A document built by hand, value by value: a grid of squares in the plane."""

    def __init__(self) -> None:
        self.blob = b""
        self.document: dict[str, Any] = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
            "accessors": [], "bufferViews": [], "samplers": [{}],
        }  # fmt: skip
        y, x = np.mgrid[0:N, 0:N] / (N - 1)
        self.places = np.stack([x, y, 0 * x], -1).reshape(-1, 3).astype("<f4")
        k = np.arange(N * N).reshape(N, N)
        a, b, c, d = (part.ravel() for part in (k[:-1, :-1], k[:-1, 1:], k[1:, 1:], k[1:, :-1]))
        self.faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).astype("<u2")
        self.attributes = {"POSITION": self.add(self.places)}
        self.primitive: dict[str, Any] = {"attributes": self.attributes, "indices": self.add(self.faces.reshape(-1, 1))}
        self.document["meshes"] = [{"primitives": [self.primitive]}]

    def add(self, table: np.ndarray, **more: Any) -> int:
        data = np.ascontiguousarray(table).tobytes()
        self.document["bufferViews"].append({"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data)})
        self.blob += data + bytes(-len(data) % 4)
        kind = KINDS[table.dtype.str[1:]]
        view = len(self.document["bufferViews"]) - 1
        count, width = table.shape
        self.document["accessors"].append(
            {"bufferView": view, "componentType": kind, "count": count, "type": SHAPES[width], **more}
        )
        return len(self.document["accessors"]) - 1

    def picture(self, pixels: np.ndarray = TILE, **texture: Any) -> dict[str, Any]:
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG")
        uri = "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
        self.document["images"] = [{"uri": uri}]
        self.document["textures"] = [{"source": 0, "sampler": 0, **texture}]
        return {"index": 0}

    def material(self, **more: Any) -> None:
        self.document["materials"] = [more]
        self.primitive["material"] = 0

    def base(self, info: dict[str, Any] | None = None, factor: tuple[float, ...] | None = None) -> None:
        surface: dict[str, Any] = {} if info is None else {"baseColorTexture": info}
        self.material(pbrMetallicRoughness=surface | ({"baseColorFactor": list(factor)} if factor else {}))

    def write(self, folder: Path) -> Path:
        uri = "data:application/octet-stream;base64," + base64.b64encode(self.blob).decode()
        self.document["buffers"] = [{"uri": uri, "byteLength": len(self.blob)}]
        path = folder / "made.gltf"
        path.write_text(json.dumps(self.document))
        return path

    def texel_uvs(self, spread: tuple[int, int, int, int] = (0, 8, 0, 4)) -> np.ndarray:
        """Middles of random texels, of columns and rows within ``spread``, which may lie beyond the picture."""
        random = np.random.default_rng(1)
        left, right, top, bottom = spread
        texel = np.stack([random.integers(left, right, N * N), random.integers(top, bottom, N * N)], -1)
        texel[:2] = [left, top], [right - 1, bottom - 1]
        return (texel + 0.5) / [8, 4]


def looked_up(uvs: np.ndarray, wrap: Callable[[int, int], int]) -> np.ndarray:
    """The texel at each uv, 0..1, by counting."""
    found = []
    for u, v in uvs:
        column, row = math.floor(u * 8), math.floor(v * 4)
        found.append(TILE[wrap(row, 4), wrap(column, 8)] / 255)
    return np.array(found)


def colors(path: Path) -> np.ndarray:
    """Of the vertices, in the file's order: those of the plane are not split."""
    mesh = read(path)
    assert len(mesh.vertices) == N * N
    return mesh.colors


REPEAT, MIRROR, CLAMP = (
    lambda k, n: k % n,
    lambda k, n: k % n if (k // n) % 2 == 0 else n - 1 - k % n,
    lambda k, n: min(max(k, 0), n - 1),
)


@pytest.mark.parametrize(("code", "wrap"), [(10497, REPEAT), (33648, MIRROR), (33071, CLAMP), (None, REPEAT)])
def test_a_texture_beyond_its_sides(tmp_path: Path, code: int | None, wrap: Callable[[int, int], int]) -> None:
    made = Made()
    uvs = made.texel_uvs((-13, 22, -6, 9))
    made.attributes["TEXCOORD_0"] = made.add(uvs.astype("<f4"))
    made.document["samplers"] = [{} if code is None else {"wrapS": code, "wrapT": code}]
    made.base(made.picture())
    assert colors(made.write(tmp_path)) == pytest.approx(looked_up(uvs, wrap), abs=2e-3)


def test_a_texture_moved_turned_and_scaled(tmp_path: Path) -> None:
    """Turned by 90 degrees counter-clockwise as one looks at the picture, right becomes up, which is less v."""
    made = Made()
    texel = made.texel_uvs()
    # what the transform must undo: p = T R S q, in complex numbers with the imaginary part upwards, that is -v
    goal = texel[:, 0] - 1j * texel[:, 1]
    offset, angle, scale = (0.3, -0.2), math.radians(90), (0.5, 2.0)
    back = (goal - (offset[0] - 1j * offset[1])) * np.exp(-1j * angle)
    uvs = np.stack([back.real / scale[0], -back.imag / scale[1]], -1)
    made.attributes["TEXCOORD_0"] = made.add(np.zeros((N * N, 2), "<f4"))
    made.attributes["TEXCOORD_1"] = made.add(uvs.astype("<f4"))
    move = {"offset": offset, "rotation": angle, "scale": scale, "texCoord": 1}
    made.base({**made.picture(), "texCoord": 0, "extensions": {"KHR_texture_transform": move}})
    assert colors(made.write(tmp_path)) == pytest.approx(looked_up(texel, REPEAT), abs=2e-3)


def test_a_transform_is_the_one_that_blender_makes(tmp_path: Path) -> None:
    bpy = pytest.importorskip("bpy", reason="needs Blender as a module (bpy)")
    from distill3d.mesh.readers.gltf_look import transformed

    made = Made()
    made.attributes["TEXCOORD_0"] = made.add(made.texel_uvs().astype("<f4"))
    move = {"offset": [0.1, 0.2], "rotation": 0.5, "scale": [2.0, 3.0]}
    made.base({**made.picture(), "extensions": {"KHR_texture_transform": move}})
    made.document["extensionsUsed"] = ["KHR_texture_transform"]
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=str(made.write(tmp_path)))
    (item,) = [o for o in bpy.data.objects if o.type == "MESH"]
    (node,) = [n for n in item.data.materials[0].node_tree.nodes if n.type == "MAPPING"]
    shift, turn, scale = (np.array(node.inputs[name].default_value[:]) for name in ("Location", "Rotation", "Scale"))
    upward = np.array([[0.9, 0.7], [0.2, 0.4]])
    c, s = math.cos(turn[2]), math.sin(turn[2])
    theirs = (upward * scale[:2]) @ np.array([[c, -s], [s, c]]).T + shift[:2]
    assert transformed(upward * [1, -1] + [0, 1], move) == pytest.approx(theirs * [1, -1] + [0, 1], abs=1e-5)


def test_factor_times_texture_times_vertex_colour(tmp_path: Path) -> None:
    made = Made()
    uvs, tint = made.texel_uvs(), np.random.default_rng(2).integers(0, 256, (N * N, 4)).astype("u1")
    made.attributes["TEXCOORD_0"] = made.add(np.round(uvs * 65535).astype("<u2"), normalized=True)
    made.attributes["COLOR_0"] = made.add(tint, normalized=True)
    factor = np.array([1.0, 0.5, 0.25])
    made.base(made.picture(), (*factor, 1.0))
    true = shown(lit(looked_up(uvs, REPEAT)) * factor * tint[:, :3] / 255)
    path = made.write(tmp_path)
    assert colors(path) == pytest.approx(true, abs=0.01)
    (part,) = read_parts(path)
    assert part.texture is not None and part.tint is not None
    # GLB keeps both, and another library finds them
    kept = write(
        convert_for(".glb", [part], MeshSettings(face_budget=0, component_share=0), TextureSettings()),
        tmp_path / "kept.glb",
    )
    (found,) = trimesh.load_scene(kept, process=False).geometry.values()
    theirs = np.asarray(found.visual.vertex_attributes["color"])[:, :3] / 65535
    assert theirs == pytest.approx(tint[:, :3] / 255, abs=1e-4)
    assert read(kept).colors == pytest.approx(true, abs=0.01)
    # OBJ has no such thing: one new texture is painted
    fine = TextureSettings(size=512, unwrap="box", normal_map=False)
    baked = convert_for(".obj", [part], MeshSettings(face_budget=0, component_share=0), fine)
    assert baked.tint is None and baked.texture is not None and baked.texture.shape == (512, 512, 3)
    flat = trimesh.load_scene(write(baked, tmp_path / "baked.obj"), process=False).geometry
    assert len(flat) == 1


def test_even_vertex_colours_go_into_the_texture(tmp_path: Path) -> None:
    made = Made()
    uvs = made.texel_uvs()
    made.attributes["TEXCOORD_0"] = made.add(uvs.astype("<f4"))
    made.attributes["COLOR_0"] = made.add(np.full((N * N, 3), 0.5, "<f4"))
    made.base(made.picture())
    mesh = read(made.write(tmp_path))
    assert mesh.tint is None
    assert mesh.colors == pytest.approx(shown(lit(looked_up(uvs, REPEAT)) / 2), abs=0.01)


def test_vertex_colours_times_factor_without_a_texture(tmp_path: Path) -> None:
    made = Made()
    tint = np.random.default_rng(2).random((N * N, 3)).astype("<f4")
    made.attributes["COLOR_0"] = made.add(tint)
    made.base(factor=(0.5, 1.0, 0.1, 1.0))
    assert colors(made.write(tmp_path)) == pytest.approx(shown(tint * [0.5, 1.0, 0.1]), abs=1e-3)


def test_specular_and_glossiness_have_a_diffuse_colour(tmp_path: Path) -> None:
    made = Made()
    uvs = made.texel_uvs()
    made.attributes["TEXCOORD_0"] = made.add(uvs.astype("<f4"))
    glossy = {"diffuseTexture": made.picture(), "diffuseFactor": [0.5, 0.5, 1.0, 1.0]}
    made.material(extensions={"KHR_materials_pbrSpecularGlossiness": glossy})
    true = shown(lit(looked_up(uvs, REPEAT)) * [0.5, 0.5, 1.0])
    assert colors(made.write(tmp_path)) == pytest.approx(true, abs=0.01)


def test_what_is_not_read_is_named_once(tmp_path: Path) -> None:
    made = Made()
    made.attributes["TEXCOORD_0"] = made.add(made.texel_uvs().astype("<f4"))
    info = made.picture()
    made.material(
        pbrMetallicRoughness={"baseColorTexture": info, "metallicRoughnessTexture": info},
        normalTexture=info, emissiveFactor=[1, 0, 0], alphaMode="BLEND",
        extensions={"KHR_materials_transmission": {"transmissionFactor": 1.0}},
    )  # fmt: skip
    made.document["animations"] = [{"channels": [], "samplers": []}]
    made.document["meshes"][0]["weights"] = [0.5]
    (text,) = read(made.write(tmp_path)).report["warnings"]
    for word in ("animation", "morph", "normal maps", "glow", "metal", "transparency", "KHR_materials_transmission"):
        assert text.count(word) == 1, word


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, r"compressed with Draco \(KHR_draco"),
        ({"extensionsRequired": ["EXT_meshopt_compression"]}, "compressed with meshopt"),
        ({"asset": {"version": "1.0"}}, "glTF 1.0"),
        ({"nodes": [{"mesh": 0, "children": [1]}, {"children": [0]}]}, "no tree"),
        ({"nodes": [{"mesh": 0, "children": [1, 1]}, {}]}, "no tree"),
        ({"nodes": [{"mesh": 7}]}, "not built as it should be"),
        ({"bufferViews": []}, "not built as it should be"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    made = Made()
    made.document.update(change)
    with pytest.raises(MeshFileError, match=words):
        read(made.write(tmp_path))


def test_a_packed_mesh_is_named_where_the_file_does_not_call_the_packing_required(tmp_path: Path) -> None:
    made = Made()
    made.document["extensionsUsed"] = ["KHR_draco_mesh_compression"]
    made.primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    assert len(read(made.write(tmp_path)).faces)
    del made.document["accessors"][made.attributes["POSITION"]]["bufferView"]
    with pytest.raises(MeshFileError, match=r"compressed with Draco .*export it without$"):
        read(made.write(tmp_path))


@pytest.mark.parametrize("name", ["NORMAL", "COLOR_0", "TEXCOORD_0"])
def test_values_of_too_few_vertices_are_told(tmp_path: Path, name: str) -> None:
    made = Made()
    made.attributes[name] = made.add(np.ones((5, 2 if name == "TEXCOORD_0" else 3), "<f4"))
    with pytest.raises(MeshFileError, match=f"{name} has 5 values for {N * N} vertices"):
        read(made.write(tmp_path))


@pytest.mark.parametrize("value", [np.nan, 1e30, -1e30, np.inf])
def test_numbers_beyond_all_bounds_do_no_harm(tmp_path: Path, value: float) -> None:
    made = Made()
    uvs = made.texel_uvs().astype("<f4")
    uvs[7] = value
    made.attributes["TEXCOORD_0"] = made.add(uvs)
    made.attributes["COLOR_0"] = made.add(np.full((N * N, 3), value, "<f4"))
    made.base(made.picture())
    assert np.isfinite(read(made.write(tmp_path)).colors).all()


def test_of_two_companions_the_missing_one_is_named(tmp_path: Path) -> None:
    made = Made()
    made.attributes["TEXCOORD_0"] = made.add(made.texel_uvs().astype("<f4"))
    made.base(made.picture())
    path = made.write(tmp_path)
    document = json.loads(path.read_text())
    (tmp_path / "my buffer.bin").write_bytes(made.blob)
    document["buffers"][0]["uri"], document["images"][0]["uri"] = "my%20buffer.bin", "skin.png"
    path.write_text(json.dumps(document))
    (text,) = read(path).report["warnings"]
    assert "refers to skin.png, not found" in text and "buffer" not in text
    Image.fromarray(TILE).save(tmp_path / "skin.png")
    assert "warnings" not in read(path).report
    (tmp_path / "my buffer.bin").write_bytes(made.blob[:99])
    with pytest.raises(MeshFileError, match=r"my buffer\.bin is cut off: \d+ bytes were announced, 99 are there"):
        read(path)
    (tmp_path / "my buffer.bin").unlink()
    with pytest.raises(MeshFileError, match=r"refers to my buffer\.bin, not found") as caught:
        read(path)
    assert "skin" not in str(caught.value)


@pytest.mark.parametrize("uri", ["../secret.png", "/tmp/secret.png", "..%2Fsecret.png", "sub/../../secret.png"])
def test_nothing_outside_the_folder_is_read(tmp_path: Path, uri: str) -> None:
    made = Made()
    made.attributes["TEXCOORD_0"] = made.add(made.texel_uvs().astype("<f4"))
    made.base(made.picture())
    inner = tmp_path / "inner"
    inner.mkdir()
    path = made.write(inner)
    Image.fromarray(TILE).save(tmp_path / "secret.png")
    document = json.loads(path.read_text())
    document["images"][0]["uri"] = uri
    path.write_text(json.dumps(document))
    mesh = read(path)
    assert mesh.texture is None and "secret.png, not found" in mesh.report["warnings"][0]


def test_strips_and_sparse_numbers_are_read_and_fans_are_told(tmp_path: Path) -> None:
    made = Made()
    made.primitive["indices"] = made.add(np.arange(6, dtype="u1")[:, None])
    points = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0], [9, 9, 9]], "<f4")
    made.attributes["POSITION"] = made.add(points)
    where, what = made.add(np.array([[5]], "u1")), made.add(np.array([[2, 1, 0]], "<f4"))
    sparse = {
        "count": 1,
        "indices": {"bufferView": made.document["accessors"][where]["bufferView"], "componentType": 5121},
        "values": {"bufferView": made.document["accessors"][what]["bufferView"]},
    }
    made.document["accessors"][made.attributes["POSITION"]]["sparse"] = sparse
    made.primitive["mode"] = 5
    strip = read(made.write(tmp_path))
    assert len(strip.faces) == 4 and strip.normals[:, 2] == pytest.approx(-1)
    assert trimesh.Trimesh(strip.vertices, strip.faces).area == pytest.approx(2)
    fan = dict(made.primitive, mode=6)
    made.document["meshes"][0]["primitives"].append(fan)
    assert "triangle fans" in read(made.write(tmp_path)).report["warnings"][0]
    made.document["meshes"][0]["primitives"] = [fan]
    with pytest.raises(MeshFileError, match="only triangle fans"):
        read(made.write(tmp_path))


def test_bones_at_rest_put_the_skin_where_viewers_show_it(tmp_path: Path) -> None:
    """A skinned mesh stands where its joints are, whatever its own node says (glTF 3.7.3.3)."""
    made = Made()
    made.attributes["JOINTS_0"] = made.add(np.tile(np.array([[0, 1, 0, 0]], "u1"), (N * N, 1)))
    weights = np.tile(np.array([[0.25, 0.75, 0, 0]], "<f4"), (N * N, 1))
    made.attributes["WEIGHTS_0"] = made.add(weights)
    rest = np.stack([np.eye(4), np.eye(4)])
    rest[1, :3, 3] = [0, 0, -1]
    bind = made.add(rest.transpose(0, 2, 1).reshape(2, 16).astype("<f4"))
    made.document["nodes"] = [
        {"mesh": 0, "skin": 0, "translation": [50, 0, 0]},
        {"translation": [0, 4, 0]},
        {"translation": [0, 0, 1], "scale": [2, 2, 2]},
    ]
    made.document["scenes"] = [{"nodes": [0, 1, 2]}]
    made.document["skins"] = [{"joints": [1, 2], "inverseBindMatrices": bind}]
    mesh = read(made.write(tmp_path))
    one = made.places + np.array([0, 4, 0])
    two = (made.places - [0, 0, 1]) * 2 + [0, 0, 1]
    assert mesh.vertices == pytest.approx(0.25 * one + 0.75 * two, abs=1e-5)


def test_a_binary_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.glb"
    trimesh.creation.box().export(path)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(
        MeshFileError, match=f"cut off: {len(data)} bytes were announced and {len(data) - 100} are there"
    ):
        read(path)
    path.write_bytes(data[:4] + struct.pack("<I", 1) + data[8:])
    with pytest.raises(MeshFileError, match="binary glTF version 1"):
        read(path)
