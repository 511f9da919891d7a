"""glTF 2.0 and GLB through trimesh: the triangles of the scene that is shown, each primitive a part, bones at rest.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html. trimesh decodes the accessors, the pictures and the places of
nodes. It would take every picture as if it lay on the first texture coordinates, and whole numbers for what they are
not: the attributes are given to it as custom ones, whose numbers it passes on untouched. Animation, morph targets and
lights are not read.
"""

from __future__ import annotations

import base64
import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from ...errors import MeshFileError
from ..beside import find
from ..types import Ints
from .gltf_look import base, dress
from .part import Contents, Doubles, Part

MAGIC, JSON_CHUNK, BIN_CHUNK = b"glTF", 0x4E4F534A, 0x004E4942
PACKED = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshopt",
    "KHR_meshopt_compression": "meshopt",
}
KNOWN = (
    "KHR_texture_transform", "KHR_mesh_quantization", "KHR_materials_pbrSpecularGlossiness", "KHR_materials_unlit",
    "EXT_texture_webp", "KHR_texture_basisu",
)  # fmt: skip
"""Extensions that are followed, or told about where they are used."""
MODES = {0: "a point cloud", 6: "triangle fans"}


def read_gltf(path: Path) -> Contents:
    """The parts of a glTF or GLB.

    Raises:
        ValueError: damaged or cut off.
        MeshFileError: buffers are missing, or it is compressed.
    """
    from trimesh.exchange.gltf import load_gltf

    document, binary = _document(path)
    found = Contents()
    _look_over(document, path, found)
    files = _files(document, binary, path, found)
    given = deepcopy(document)
    _prepare(given, found)
    loaded = load_gltf(io.BytesIO(json.dumps(given).encode()), resolver=files)
    world = {loaded["base_frame"]: np.eye(4)}
    for edge in loaded["graph"]:  # parents come before their children
        world[edge["frame_to"]] = world[edge["frame_from"]] @ edge["matrix"]
    geometry = iter(loaded["geometry"].values())
    meshes = [[(p, next(geometry)) for p in mesh["primitives"]] for mesh in given.get("meshes", [])]
    for node in given["nodes"]:
        if "shape" not in node or node["name"] not in world:
            continue
        mesh = given["meshes"][node["shape"]]
        if "EXT_mesh_gpu_instancing" in node.get("extensions", {}):
            found.note("copies of a mesh (EXT_mesh_gpu_instancing)")
        if any(node.get("weights", mesh.get("weights", ()))):
            found.note("morph targets")
        for primitive, decoded in meshes[node["shape"]]:
            table = Table(given, primitive, decoded)
            part = _part(table, node, world, given)
            number = primitive["material"] - 1
            dress(part, table, None if number < 0 else document["materials"][number], document, found)
            found.parts.append(part)
    return found


def _document(path: Path) -> tuple[dict[str, Any], bytes]:
    data, chunks = path.read_bytes(), dict[int, bytes]()
    if data[:4] == MAGIC:
        version, total = (int.from_bytes(data[k : k + 4], "little") for k in (4, 8))
        if version != 2:
            raise ValueError(f"it is binary glTF version {version}, and only version 2 is read")
        if total > len(data):
            raise ValueError(f"it is cut off: {total} bytes were announced and {len(data)} are there")
        at = 12
        while at + 8 <= total:
            length, kind = (int.from_bytes(data[k : k + 4], "little") for k in (at, at + 4))
            chunks.setdefault(kind, data[at + 8 : at + 8 + length])
            at += 8 + length
        data = chunks.get(JSON_CHUNK, b"")
    try:
        document = json.loads(data.decode("utf-8-sig", "replace"))
    except ValueError as error:
        what = f"its JSON is damaged ({error})" if data.lstrip().startswith(b"{") else "it is no glTF"
        raise ValueError(what) from error
    if not isinstance(document, dict):
        raise ValueError("it is no glTF")
    return document, chunks.get(BIN_CHUNK, b"")


def _look_over(document: dict[str, Any], path: Path, found: Contents) -> None:
    """Raises ``ValueError`` for another version, ``MeshFileError`` for packed meshes; notes what is not read."""
    version = str(document.get("asset", {}).get("version", "2.0"))
    if version.split(".")[0] != "2":
        raise ValueError(f"it is glTF {version}, and only glTF 2.0 is read")
    needed = document.get("extensionsRequired", [])
    for name in [*(name for name in needed if name in PACKED), *_packed(document)]:
        what = f"{path} is compressed with {PACKED[name]} ({name})"
        raise MeshFileError(f"{what}, which is not read here: export it without")
    for name in needed:
        if name not in KNOWN:
            found.note(f"the extension {name}")
    if document.get("animations"):
        found.note("animation")


def _packed(document: dict[str, Any]) -> list[str]:
    """Extensions without which a mesh of the document has no vertices, though it may not call them required."""
    accessors = document.get("accessors", [])
    return [
        name
        for mesh in document.get("meshes", [])
        for primitive in mesh.get("primitives", [])
        for name in primitive.get("extensions", {})
        if name in PACKED and "bufferView" not in accessors[primitive.get("attributes", {}).get("POSITION", 0)]
    ]


def _files(document: dict[str, Any], binary: bytes, path: Path, found: Contents) -> dict[str, bytes]:
    """The bytes of buffers and pictures, by new uris that are put into the document."""
    files: dict[str, bytes] = {}
    lacking: list[str] = []
    for key in ("buffers", "images"):
        for number, item in enumerate(document.get(key, [])):
            uri = item.get("uri", "data:")
            name = f"{key[:-1]} {number}" if uri.startswith("data:") else unquote(uri)
            item.setdefault("name", name)
            if "bufferView" in item:
                continue
            data = _fetched(path, uri) if "uri" in item else binary
            item["uri"] = f"{key} {number}"
            files[item["uri"]] = data or b""
            if data is None:
                item["absent"] = True
                (lacking if key == "buffers" else found.absent).append(name)
            elif len(data) < item.get("byteLength", 0):
                size = f"{item['byteLength']} bytes were announced, {len(data)} are there"
                raise ValueError(f"{name} is cut off: {size}")
    if lacking:
        raise MeshFileError(
            f"could not read {path}: it refers to {', '.join(lacking)}, not found in its folder: put it there, or "
            "export the object as one .glb file"
        )
    return files


def _fetched(path: Path, uri: str) -> bytes | None:
    """The bytes that a uri stands for; None where there is no such file in the folder."""
    if uri.startswith("data:"):
        head, _, body = uri.partition(",")
        return base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
    place = find(path.parent, unquote(uri)) or find(path.parent, uri)
    return None if place is None else place.read_bytes()


def _prepare(document: dict[str, Any], found: Contents) -> None:
    """The document as trimesh is to see it: nodes that are places alone, triangles alone, attributes as custom ones."""
    nodes, meshes = document.setdefault("nodes", []), document.get("meshes", [])
    if not nodes:  # a library of meshes
        nodes += [{"mesh": k} for k in range(len(meshes))]
    below = [child for node in nodes for child in node.get("children", [])]
    scenes = document.get("scenes") or [{"nodes": [k for k in range(len(nodes)) if k not in set(below)]}]
    held = below + scenes[document.get("scene", 0)].get("nodes", [])
    if len(held) != len(set(held)):
        raise ValueError("its nodes are no tree: one of them hangs below two others, or below itself")
    document["scenes"] = scenes
    pictures = [base(material).get("baseColorTexture", {}) for material in document.get("materials", [])]
    document["materials"] = [{}, *({"pbrMetallicRoughness": {"baseColorTexture": info}} for info in pictures)]
    for texture in document.get("textures", []):
        texture.update(texture.pop("extensions", {}).get("EXT_texture_webp", {}))
    for number, node in enumerate(nodes):
        node["name"] = str(number)  # trimesh leaves out nodes with a camera
        node.pop("camera", None)
        if "mesh" in node:
            node["shape"] = node.pop("mesh")
            for primitive in meshes[node["shape"]]["primitives"] if "skin" in node else ():
                bind = document["skins"][node["skin"]].get("inverseBindMatrices")
                primitive["attributes"].update({} if bind is None else {f"BIND_{node['skin']}": bind})
    for mesh in meshes:
        mesh["primitives"] = [p for p in mesh["primitives"] if _is_surface(p, found)]
        for primitive in mesh["primitives"]:
            _prepare_primitive(primitive, document["accessors"], found)


def _is_surface(primitive: dict[str, Any], found: Contents) -> bool:
    mode = primitive.get("mode", 4)
    if mode in (4, 5) and "POSITION" in primitive["attributes"]:
        return True
    what = MODES.get(mode, "lines") if "POSITION" in primitive["attributes"] else "empty parts"
    found.others.append(what)
    if mode == 6:
        found.note(what)
    return False


def _prepare_primitive(primitive: dict[str, Any], accessors: list[dict[str, Any]], found: Contents) -> None:
    names = primitive["attributes"]
    for name, number in names.items():
        count, total = accessors[number]["count"], accessors[names["POSITION"]]["count"]
        if count != total and not name.startswith("BIND_"):
            raise ValueError(f"{name} has {count} values for {total} vertices")
    if "sparse" in accessors[primitive.get("indices", 0)] and "indices" in primitive:
        found.note("sparse numbers of corners")
    given = {"POSITION": names["POSITION"]}
    for name, number in names.items():
        accessor, given[f"_{name}"] = accessors[number], number
        if "sparse" in accessor:  # unknown to trimesh; see Table.values
            rows, values, count = (accessor["sparse"][key] for key in ("indices", "values", "count"))
            kind = {"type": accessor["type"], "componentType": accessor["componentType"]}
            accessors += [{"type": "SCALAR", **rows, "count": count}, {**kind, **values, "count": count}]
            given |= {f"_{name} rows": len(accessors) - 2, f"_{name} values": len(accessors) - 1}
    primitive["attributes"] = given
    primitive["material"] = primitive.get("material", -1) + 1
    primitive.pop("extensions", None)


class Table:
    """What trimesh has decoded of a primitive."""

    def __init__(self, document: dict[str, Any], primitive: dict[str, Any], loaded: dict[str, Any]) -> None:
        self.accessors, self.numbers, self.loaded = document["accessors"], primitive["attributes"], loaded

    def __contains__(self, name: str) -> bool:
        return f"_{name}" in self.numbers

    def values(self, name: str, *, unit: bool = False) -> NDArray:
        """``(count, ...)`` of an attribute; normalised whole numbers, and with ``unit`` all, as floats in 0..1."""
        tables, accessor = self.loaded["vertex_attributes"], self.accessors[self.numbers[f"_{name}"]]
        table: NDArray = tables[f"_{name}"]
        if "sparse" in accessor:
            table = table.copy()
            table[tables[f"_{name} rows"].reshape(-1)] = tables[f"_{name} values"]
        if table.dtype.kind != "f" and (unit or accessor.get("normalized")):
            table = np.maximum(table / float(np.iinfo(table.dtype).max), -1.0)
        return table

    def faces(self) -> Ints:
        """``(F, 3)``. Raises ``ValueError`` where one names a vertex that is not there."""
        faces = np.asarray(self.loaded["faces"], np.int64)
        if faces.min(initial=0) < 0 or faces.max(initial=-1) >= len(self.loaded["vertices"]):
            raise ValueError("a face names a vertex that does not exist")
        return faces


def _part(table: Table, node: dict[str, Any], world: dict[str, Doubles], document: dict[str, Any]) -> Part:
    """A primitive where its node, or its bones at rest, put it."""
    matrix = _matrix(table, node, world, document)
    places = table.values("POSITION").astype(np.float64)
    part = Part(np.einsum("...ij,...j->...i", matrix[..., :3, :3], places) + matrix[..., :3, 3], table.faces())
    if "NORMAL" in table:
        part.normals = np.einsum("...ji,...j->...i", np.linalg.pinv(matrix[..., :3, :3]), table.values("NORMAL"))
    if matrix.ndim == 2 and np.linalg.det(matrix[:3, :3]) < 0:
        part.faces = part.faces[:, ::-1].copy()
    return part


def _matrix(table: Table, node: dict[str, Any], world: dict[str, Doubles], document: dict[str, Any]) -> Doubles:
    """``(4, 4)``, the node's place, or ``(V, 4, 4)``, where bones at rest put each vertex."""
    if "skin" not in node or "JOINTS_0" not in table or "WEIGHTS_0" not in table:
        return world[node["name"]]
    joints = np.stack([world.get(str(k), np.eye(4)) for k in document["skins"][node["skin"]]["joints"]])
    if (bind := f"BIND_{node['skin']}") in table:
        joints = joints @ table.values(bind)[: len(joints)].astype(np.float64).transpose(0, 2, 1)
    sets = [k for k in range(4) if f"JOINTS_{k}" in table]
    index = np.concatenate([table.values(f"JOINTS_{k}") for k in sets], 1).astype(np.int64)
    weight = np.concatenate([table.values(f"WEIGHTS_{k}") for k in sets], 1).astype(np.float64)
    total = weight.sum(1)[:, None, None]
    matrix = sum(weight[:, k, None, None] * joints[index[:, k]] for k in range(weight.shape[1]))
    return np.where(total < 1e-9, world[node["name"]], matrix / np.maximum(total, 1e-9))
