"""glTF 2.0 and GLB: the triangles of the scene that is shown, each primitive a part, in the pose the file opens with.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html. Read here because trimesh takes every picture as if it lay on
the first texture coordinates, repeated and without transform, and whole numbers for what they are not. Bones are
followed to the pose at rest; animation, morph targets and lights are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..types import Ints
from .gltf_data import Buffers
from .gltf_look import dress
from .part import Contents, Doubles, Part, checked

MAGIC, JSON_CHUNK, BIN_CHUNK = b"glTF", 0x4E4F534A, 0x004E4942
PACKED = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshopt",
    "KHR_meshopt_compression": "meshopt",
}


def read_gltf(path: Path) -> Contents:
    """The parts of a glTF or GLB.

    Raises:
        ValueError: damaged, cut off, or compressed.
        Lacking: buffers are missing.
    """
    document, binary = _document(path)
    if str(document.get("asset", {}).get("version", "2.0")).split(".")[0] != "2":
        raise ValueError(f"it is glTF {document['asset']['version']}, and only glTF 2.0 is read")
    packed = [name for name in document.get("extensionsRequired", []) if name in PACKED]
    if packed:
        raise ValueError(
            f"it is compressed with {PACKED[packed[0]]} ({packed[0]}), which is not read here: export it without"
        )
    found = Contents()
    buffers = Buffers(document, binary, path, found)
    if document.get("animations"):
        found.note("animation")
    for name in document.get("extensionsRequired", []):
        if name not in KNOWN:
            found.note(f"the extension {name}")
    for node, place in _shown(document):
        _add(node, place, document, buffers, found)
    return found


KNOWN = (
    "KHR_texture_transform", "KHR_mesh_quantization", "KHR_materials_pbrSpecularGlossiness", "KHR_materials_unlit",
    "EXT_texture_webp", "KHR_texture_basisu",
)  # fmt: skip
"""Extensions that are followed, or told about where they are used."""


def _document(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    if data[:4] != MAGIC:
        return _json(data.decode("utf-8-sig", "replace")), b""
    version, total = (int.from_bytes(data[k : k + 4], "little") for k in (4, 8))
    if version != 2:
        raise ValueError(f"it is binary glTF version {version}, and only version 2 is read")
    if total > len(data):
        raise ValueError(f"it is cut off: {total} bytes were announced and {len(data)} are there")
    chunks: dict[int, bytes] = {}
    at = 12
    while at + 8 <= total:
        length, kind = (int.from_bytes(data[k : k + 4], "little") for k in (at, at + 4))
        chunks.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length
    if JSON_CHUNK not in chunks:
        raise ValueError("it has no JSON chunk")
    return _json(chunks[JSON_CHUNK].decode("utf-8", "replace")), chunks.get(BIN_CHUNK, b"")


def _json(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        what = f"its JSON is damaged ({error})" if text.lstrip().startswith("{") else "it is no glTF"
        raise ValueError(what) from error
    if not isinstance(document, dict):
        raise ValueError("it is no glTF")
    return document


def _shown(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[int, Doubles]]]:
    """Nodes with a mesh, each with the places of all nodes so far in the world: one scene, or all there is."""
    nodes = document.get("nodes", [])
    scenes = document.get("scenes", [])
    children = {child for node in nodes for child in node.get("children", [])}
    roots = [k for k in range(len(nodes)) if k not in children]
    if scenes:
        roots = scenes[document.get("scene", 0)].get("nodes", [])
    world: dict[int, Doubles] = {}
    order: list[int] = []
    waiting = [(root, np.eye(4)) for root in reversed(roots)]
    while waiting:
        number, above = waiting.pop()
        if number in world:
            raise ValueError("its nodes are no tree: one of them hangs below two others, or below itself")
        world[number] = above @ _local(nodes[number])
        order.append(number)
        waiting += [(child, world[number]) for child in reversed(nodes[number].get("children", []))]
    for number in order:
        if "mesh" in nodes[number]:
            yield {**nodes[number], "number": number}, world
    if not nodes:  # a library of meshes
        for mesh in range(len(document.get("meshes", []))):
            yield {"mesh": mesh, "number": -1}, {-1: np.eye(4)}


def _local(node: dict[str, Any]) -> Doubles:
    if "matrix" in node:
        given: Doubles = np.array(node["matrix"], np.float64).reshape(4, 4).T
        return given
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    local = np.eye(4)
    local[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64)
    local[:3, 3] = node.get("translation", (0, 0, 0))
    return local


def _add(
    node: dict[str, Any], world: dict[int, Doubles], document: dict[str, Any], buffers: Buffers, found: Contents
) -> None:
    """The primitives of a node's mesh, each as a part in the world."""
    mesh = document["meshes"][node["mesh"]]
    if "EXT_mesh_gpu_instancing" in node.get("extensions", {}):
        found.note("copies of a mesh (EXT_mesh_gpu_instancing)")
    if any(node.get("weights", mesh.get("weights", ()))):
        found.note("morph targets")
    for primitive in mesh["primitives"]:
        names = primitive["attributes"]
        mode = primitive.get("mode", 4)
        if mode < 4 or "POSITION" not in names:
            what = "empty parts" if mode > 3 else "lines" if mode else "a point cloud"
            found.others += [what] * (what not in found.others)
            continue
        vertices = buffers.values(names["POSITION"]).astype(np.float64)
        for name, number in names.items():
            count = document["accessors"][number]["count"]
            if count != len(vertices):
                raise ValueError(f"{name} has {count} values for {len(vertices)} vertices")
        order = np.arange(len(vertices))
        if "indices" in primitive:
            order = buffers.values(primitive["indices"]).reshape(-1).astype(np.int64)
        faces = checked(_triangles(order, mode), len(vertices))
        if len(faces) == 0:
            continue
        normals = buffers.values(names["NORMAL"]).astype(np.float64) if "NORMAL" in names else None
        matrix = _matrix(node, world, document, buffers, names, len(vertices))
        part = Part(_moved(matrix, vertices), faces)
        if normals is not None:
            part.normals = np.einsum("...ji,...j->...i", np.linalg.pinv(matrix[..., :3, :3]), normals)
        if matrix.ndim == 2 and np.linalg.det(matrix[:3, :3]) < 0:
            part.faces = faces[:, ::-1].copy()
        dress(part, primitive, document, buffers, found)
        found.parts.append(part)


def _triangles(order: Ints, mode: int) -> Ints:
    """``(F, 3)`` of the corners of triangles one by one (4), in a strip (5) or in a fan (6)."""
    if mode == 4:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if mode == 5:
        strip = np.stack([order[:-2], order[1:-1], order[2:]], -1)
        strip[1::2] = strip[1::2][:, [1, 0, 2]]
    else:
        strip = np.stack([order[1:-1], order[2:], np.full(max(len(order) - 2, 0), order[0] if len(order) else 0)], -1)
    a, b, c = strip.T
    kept: Ints = strip[(a != b) & (b != c) & (a != c)]
    return kept


def _matrix(
    node: dict[str, Any], world: dict[int, Doubles], document: dict[str, Any], buffers: Buffers, names: dict, count: int
) -> Doubles:
    """``(4, 4)``, the node's place, or ``(V, 4, 4)``, where bones at rest put each vertex."""
    if "skin" not in node or "JOINTS_0" not in names or "WEIGHTS_0" not in names:
        return world[node["number"]]
    skin = document["skins"][node["skin"]]
    joints = np.stack([world.get(joint, np.eye(4)) for joint in skin["joints"]])
    if "inverseBindMatrices" in skin:
        rest = buffers.values(skin["inverseBindMatrices"]).astype(np.float64).reshape(-1, 4, 4).transpose(0, 2, 1)
        joints = joints @ rest[: len(joints)]
    matrix = np.zeros((count, 4, 4))
    total = np.zeros(count)
    for k in range(4):
        if f"JOINTS_{k}" not in names:
            break
        index = buffers.values(names[f"JOINTS_{k}"]).astype(np.int64)
        weight = buffers.values(names[f"WEIGHTS_{k}"]).astype(np.float64)
        matrix += np.einsum("vk,vkij->vij", weight, joints[index])
        total += weight.sum(1)
    free = total < 1e-9
    matrix[free] = world[node["number"]]
    return matrix / np.where(free, 1, total)[:, None, None]


def _moved(matrix: Doubles, points: NDArray) -> Doubles:
    moved: Doubles = np.einsum("...ij,...j->...i", matrix[..., :3, :3], points) + matrix[..., :3, 3]
    return moved
