"""Mesh files: GLB, OBJ with its MTL and pictures, PLY, STL and USDZ, whole or absent.

Colours are sRGB in textures, in OBJ (``v x y z r g b``, the extension that MeshLab and Blender read) and in PLY
(``uchar``), and linear in the vertex colours of GLB and USDZ. Axes are the world's in all: y up, right-handed, front
faces +z, which is also glTF's frame. glTF counts texture rows from the top, OBJ and USD from the bottom; the writers
turn them. PLY and STL carry no texture: PLY keeps the vertex colours, STL the shape alone.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..errors import SettingsError
from .beside import is_free, mark
from .clean import first_seen, is_closed, part_volumes
from .gltf import encode_glb
from .images import encode_image
from .shade import places
from .types import Ints, SurfaceMesh
from .usdz import encode_usdz

Metadata = dict[str, Any]
TEXTURED = (".glb", ".obj", ".usdz")
"""Suffixes of the formats that can carry a texture."""
MAPS = {"color": ("map_Kd",), "normal": ("norm", "map_Bump -bm 1"), "occlusion": ("map_ao",)}
"""What MTL calls the pictures. ``norm`` is the later name of a normal map; Blender writes and reads ``map_Bump``."""


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: a number that is not finite becomes null, anything unknown its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


def joined(mesh: SurfaceMesh) -> tuple[Ints, Ints]:
    """Seams closed: the first vertex of each place ``(P,)``, and the place of each vertex ``(V,)``.

    A mesh without texture coordinates keeps all its vertices.
    """
    if mesh.uvs is None:
        identity = np.arange(len(mesh.vertices))
        return identity, identity
    # the same place with another normal is another vertex: a crease that the author wanted
    return first_seen(places(np.concatenate([mesh.vertices, mesh.normals], 1))[:, None])


def double_sided(mesh: SurfaceMesh) -> bool:
    """Whether backs may be seen: some part is open once its seams and creases are closed, or faces inward."""
    faces = places(mesh.vertices)[mesh.faces]
    return not is_closed(faces) or bool((part_volumes(_placed(mesh, faces), faces) <= 0).any())


def _placed(mesh: SurfaceMesh, faces: Ints) -> NDArray[np.float64]:
    """Vertices by the number of their place."""
    points = np.zeros((int(faces.max()) + 1, 3))
    points[faces] = mesh.vertices[mesh.faces]
    return points


def encode_ply(mesh: SurfaceMesh, metadata: Metadata) -> bytes:
    """Binary little-endian PLY: position, normal, sRGB ``uchar`` colour; the metadata as one JSON comment line."""
    first, place = joined(mesh)
    about = json.dumps(metadata).replace("end_header", "end\\u005fheader")  # readers look for the word
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment Distill3D, y up, colours sRGB",
        *([f"comment metadata {about}"] if metadata else []),
        f"element vertex {len(first)}",
        *(f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        f"element face {len(mesh.faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    vertex = np.zeros(len(first), [("x", "<f4", 3), ("n", "<f4", 3), ("c", "u1", 3)])
    vertex["x"], vertex["n"] = mesh.vertices[first], mesh.normals[first]
    vertex["c"] = np.round(np.clip(mesh.colors[first], 0, 1) * 255)
    face = np.zeros(len(mesh.faces), [("count", "u1"), ("index", "<i4", 3)])
    face["count"], face["index"] = 3, place[mesh.faces]
    return ("\n".join(header) + "\n").encode("ascii") + vertex.tobytes() + face.tobytes()


def encode_stl(mesh: SurfaceMesh, metadata: Metadata) -> bytes:
    """Binary STL: shape only. Units are the mesh's, and programs that print take them for millimetres."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    face = np.zeros(len(mesh.faces), [("n", "<f4", 3), ("x", "<f4", (3, 3)), ("attribute", "<u2")])
    face["n"], face["x"] = normal, mesh.vertices[mesh.faces]
    return b"Distill3D, y up".ljust(80) + len(face).to_bytes(4, "little") + face.tobytes()


def encode_obj(mesh: SurfaceMesh, metadata: Metadata, materials: str = "") -> bytes:
    """Wavefront OBJ text with ``v x y z r g b`` (sRGB 0..1), ``vt``, ``vn`` and ``f``; the metadata as one comment.

    Args:
        materials: name of the MTL file beside it; empty leaves texture coordinates and material out.
    """
    # places, coordinates and normals are numbered apart, so that a closed surface stays closed along seams and creases
    tones = np.zeros_like(mesh.colors) if materials else mesh.colors
    first, place = first_seen(places(np.concatenate([mesh.vertices, tones], 1))[:, None])
    first_normal, normal = first_seen(places(mesh.normals)[:, None])
    lines = ["# Distill3D, y up, colours sRGB"]
    if metadata:
        lines.append(f"# metadata {json.dumps(metadata)}")
    if materials:
        lines.append(f"mtllib {materials}")
    lines.append("o object")
    corners = np.concatenate([mesh.vertices[first], np.clip(mesh.colors[first], 0, 1)], -1).tolist()
    if materials:  # vertex colours beside a texture confuse readers that multiply them
        lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z, *_ in corners]
    else:
        lines += [f"v {x:.9g} {y:.9g} {z:.9g} {r:.5f} {g:.5f} {b:.5f}" for x, y, z, r, g, b in corners]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in mesh.normals[first_normal].tolist()]
    rows = [(place[mesh.faces] + 1).tolist(), (normal[mesh.faces] + 1).tolist()]
    if materials and mesh.uvs is not None:
        lines += [f"vt {u:.7g} {1 - v:.7g}" for u, v in mesh.uvs.tolist()]
        lines.append("usemtl baked")
        rows.insert(1, (mesh.faces + 1).tolist())
        faces = zip(*rows, strict=True)
        lines += ["f " + " ".join(f"{p}/{t}/{n}" for p, t, n in zip(*face, strict=True)) for face in faces]
    else:
        faces = zip(*rows, strict=True)
        lines += ["f " + " ".join(f"{p}//{n}" for p, n in zip(*face, strict=True)) for face in faces]
    return ("\n".join(lines) + "\n").encode("ascii")


def _obj_files(mesh: SurfaceMesh, metadata: Metadata, path: Path) -> dict[Path, bytes]:
    """Pictures and MTL before the OBJ that names them. Spaces in names would end a name in both formats.

    Names that other files have are not taken: a number is added until all are free or were written for this very OBJ.
    """
    if mesh.texture is None or mesh.uvs is None:
        return {path: encode_obj(mesh, metadata)}
    pictures = {"color": mesh.texture, "normal": mesh.normal_map, "occlusion": mesh.occlusion}
    there = {name: pixels for name, pixels in pictures.items() if pixels is not None}
    plain_stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in path.stem)
    stem, number = plain_stem, 1
    while not all(is_free(path.with_name(name), path) for name in [f"{stem}.mtl", *(f"{stem}_{n}.png" for n in there)]):
        number += 1
        stem = f"{plain_stem}-{number}"
    lines = [f"# {mark(path)}", "newmtl baked", "Kd 1 1 1", "Ka 0 0 0", "Ks 0 0 0", "d 1", "illum 1"]
    made: dict[Path, bytes] = {}
    for name, pixels in there.items():
        made[path.with_name(f"{stem}_{name}.png")] = encode_image(pixels, software=mark(path))
        lines += [f"{key} {stem}_{name}.png" for key in MAPS[name]]
    made[path.with_name(f"{stem}.mtl")] = ("\n".join(lines) + "\n").encode("ascii")
    made[path] = encode_obj(mesh, metadata, f"{stem}.mtl")
    return made


def _glb(mesh: SurfaceMesh, metadata: Metadata) -> bytes:
    return encode_glb(mesh, metadata, double_sided=double_sided(mesh))


def _usdz(mesh: SurfaceMesh, metadata: Metadata) -> bytes:
    return encode_usdz(mesh, metadata, double_sided=double_sided(mesh))


ENCODERS: dict[str, Callable[[SurfaceMesh, Metadata], bytes]] = {
    ".glb": _glb,
    ".obj": encode_obj,
    ".ply": encode_ply,
    ".stl": encode_stl,
    ".usdz": _usdz,
}


def write(mesh: SurfaceMesh, path: Path | str, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the mesh in the format of the path's suffix; missing folders are made.

    Args:
        metadata: prompt, method, seed and the like; kept in GLB's ``asset.extras``, in USDZ's ``customLayerData`` and
            in a comment of OBJ and PLY.

    Returns:
        The path. An earlier file there is replaced in one step, and untouched when writing fails. An OBJ with a
        texture has its MTL and PNG files beside it, all written before any is replaced; files of those names that
        this library did not write stay, and a number is added to ours.

    Raises:
        SettingsError: another suffix, or a mesh without faces.
        OutputError: the folder or disk does not take the file; the message says what to do.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    encode = ENCODERS.get(suffix)
    if encode is None:
        raise SettingsError(f"expected a mesh file ending in {', '.join(ENCODERS)}, got {path.name!r}: rename it")
    if len(mesh.faces) == 0:
        raise SettingsError("expected a mesh with faces, got an empty one: nothing was written")
    data = plain(metadata or {})
    made = _obj_files(mesh, data, path) if suffix == ".obj" else {path: encode(mesh, data)}
    files.make_folder(path.parent)
    with contextlib.ExitStack() as stack:
        # entered last, replaced first: a picture never replaces an earlier one before all its fellows are written
        for target, content in made.items():
            stack.enter_context(files.atomic_path(target)).write_bytes(content)
    return path
