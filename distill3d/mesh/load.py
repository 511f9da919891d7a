"""Meshes that come from elsewhere: GLB, glTF, OBJ, PLY, STL and OFF files with their colours.

A file may hold several parts, each with a material of its own; they are kept apart until something asks for one mesh.
Only geometry and base colour are read; what else a file has is named in a warning.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import MeshFileError
from ..interrupts import heard
from .clean import face_areas, unique_rows
from .color import face_weighted_normals, tinted
from .readers import READERS, Contents
from .readers.part import Part, Picture, Wrap
from .shade import creased, places
from .types import Bytes, Floats, Ints, SurfaceMesh
from .view import sample_texture

SUFFIXES = tuple(READERS)
GREY = 0.8
"""Colour of a mesh that has none."""
EDGE = 1e-3
"""Texture coordinates may leave 0..1 by this much before the texture counts as repeated."""
MOST_REPEATS, MOST_TEXELS = 64, 4096
"""A repeated texture is laid out up to so many times along a side, within so many texels; beyond that its colours are
kept at the vertices only."""
MOST_OFF = 1e6
"""Texture coordinates farther out than so many repeats have no fraction left in 32 bits."""
FAR = 1000.0
"""Coordinates this many times larger than the object are too coarse in 32 bits; it is moved to the origin."""


def read(path: Path | str) -> SurfaceMesh:
    """A mesh file as one mesh, its frame and size as they are in the file; see :func:`read_parts` and :func:`merge`."""
    return merge(read_parts(path))


def read_parts(path: Path | str) -> list[SurfaceMesh]:
    """The parts of a mesh file in the file's world frame, each with its colours, and its texture if it has one.

    A part without normals is split along its sharp edges (``shade.CREASE`` degrees) and smooth elsewhere.

    Raises:
        MeshFileError: no such file, an unknown kind, a damaged file, or nothing with triangles in it.
    """
    path = Path(path)
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise MeshFileError(f"expected a mesh file, but {what}: check the path")
    if path.suffix.lower() not in SUFFIXES:
        written = "; USDZ is written here and not read" if path.suffix.lower() == ".usdz" else ""
        raise MeshFileError(
            f"expected a mesh file ending in {', '.join(SUFFIXES)}, got {path.name!r}{written}: export the object "
            "in one of these formats"
        )
    contents = _contents(path)
    pieces = [_compact(part) for part in contents.parts if len(part.faces)]
    said: list[str] = []
    with np.errstate(over="ignore", invalid="ignore"):  # told below, in words
        origin = _origin([piece.vertices for piece in pieces])
        parts = [_part(piece, origin, said) for piece in pieces]
    _refuse_nothing(path, contents, parts)
    parts[0].report = _remarks(path, origin, contents, _doubled(pieces) + said)
    return parts


def _contents(path: Path) -> Contents:
    """What the file's reader finds. Raises ``MeshFileError`` for whatever a damaged file leads it to."""
    try:
        if path.stat().st_size == 0:
            raise MeshFileError(f"expected a mesh in {path}, but the file is empty (0 bytes): copy or export it again")
        with (
            heard(),
            _unsaid(),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
        ):  # not finite: told later
            warnings.filterwarnings("error", "string or file could not be read")  # words among numbers
            return READERS[path.suffix.lower()](path)
    except MeshFileError:
        raise
    except MemoryError as error:
        raise MeshFileError(f"could not read {path}: it is too large for the memory, or damaged") from error
    except OSError as error:
        name = error.filename or path
        raise MeshFileError(f"could not read {name}: {error.strerror or error}: check its permissions") from error
    except Exception as error:  # trimesh raises whatever a damaged file leads it to
        what = str(error) if isinstance(error, ValueError | Warning) else f"it is not built as it should be ({error!r})"
        raise MeshFileError(
            f"could not read {path}: {what}. It may be damaged, or of another kind than its name says: copy or export "
            "it again"
        ) from error


@contextmanager
def _unsaid() -> Iterator[None]:
    """Silences trimesh, which logs tracebacks of what it then reads in another way."""
    log = logging.getLogger("trimesh")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _remarks(path: Path, origin: NDArray[np.float64], contents: Contents, said: Sequence[str]) -> dict[str, Any]:
    """A report of what is not as the file has it; empty where all is."""
    report: dict[str, Any] = {}
    texts = []
    if origin.any():
        where = ", ".join(f"{v:.6g}" for v in origin)
        report["moved_by"] = (-origin).tolist()
        texts.append(
            f"the object lies around ({where}), too far from the origin for its size: 32-bit files would lose its "
            "shape, so it was moved to the origin"
        )
    if contents.absent:
        names = ", ".join(dict.fromkeys(contents.absent))
        texts.append(f"{path.name} refers to {names}, not found in its folder: colours may be missing")
    if contents.unread:
        texts.append(f"not read from {path.name}: {', '.join(contents.unread)}")
    texts += dict.fromkeys(said)
    return report | ({"warnings": texts} if texts else {})


def _doubled(pieces: Sequence[Part]) -> list[str]:
    """A warning where faces are there twice, with either side out."""
    more = 0
    for piece in pieces:
        corners = np.sort(places(piece.vertices)[piece.faces], 1)
        more += len(corners) - len(unique_rows(corners)[0])
    if more == 0:
        return []
    many = f"{more} faces lie" if more > 1 else "1 face lies"
    return [f"{many} exactly on others, and viewers may flicker there: smoothing, or a face budget below, drops them"]


def _refuse_nothing(path: Path, contents: Contents, parts: Sequence[SurfaceMesh]) -> None:
    """Raises ``MeshFileError`` where there is no surface, or none at finite places."""
    if not parts:
        held = " and ".join(dict.fromkeys(contents.others)) or "an empty scene"
        raise MeshFileError(f"expected triangles in {path}, but found none, only {held}: export the object as a mesh")
    if not all(np.isfinite(part.vertices).all() for part in parts):
        raise MeshFileError(
            f"expected finite coordinates that fit 32 bits in {path}, but some are NaN, infinite or larger: repair the "
            "object, or scale it, and export it again"
        )
    if not any(face_areas(part.vertices.astype(np.float64), part.faces).any() for part in parts):
        raise MeshFileError(f"expected triangles with an area in {path}, but all are lines or points: export it again")


def merge(parts: Sequence[SurfaceMesh]) -> SurfaceMesh:
    """Parts as one mesh. A single part keeps its texture; of several only vertex colours remain."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return SurfaceMesh(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([p.faces + start for p, start in zip(parts, starts, strict=True)]),
        np.concatenate([p.normals for p in parts]),
        np.concatenate([p.colors for p in parts]),
        0.0,
        parts[0].report,
    )


def _compact(part: Part) -> Part:
    """Without faces that name a vertex twice, where there are others, and without vertices that no face uses.

    A stray vertex would set the size of the object.
    """
    a, b, c = part.faces.T
    whole = (a != b) & (b != c) & (c != a)
    if whole.any() and not whole.all():
        part = replace(part, faces=part.faces[whole])
    used = np.zeros(len(part.vertices), bool)
    used[part.faces] = True
    return part if used.all() else _taken(part, used.nonzero()[0], (np.cumsum(used) - 1)[part.faces])


def _taken(part: Part, source: Ints, faces: Ints) -> Part:
    """The part with the vertices ``source`` ``(N,)`` of it, and other faces."""
    values = {name: getattr(part, name) for name in ("vertices", "normals", "colors", "uvs", "tint")}
    taken = {name: None if value is None else value[source] for name, value in values.items()}
    return Part(faces=faces, picture=part.picture, **taken)  # type: ignore[arg-type]


def _origin(places: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The middle of all parts ``(3,)`` where they lie too far away for 32 bits, else 0."""
    corners = np.array([[p.min(0), p.max(0)] for p in places]).reshape(-1, 3)
    if not len(corners) or not np.isfinite(corners).all():
        return np.zeros(3)
    low, high = corners.min(0), corners.max(0)
    far = float(np.abs(corners).max()) > FAR * max(float((high - low).max()), 1e-30)
    return (low + high) / 2 if far else np.zeros(3)


def _part(part: Part, origin: NDArray[np.float64], said: list[str]) -> SurfaceMesh:
    """The part in 32 bits with normals and colours; what its texture loses is added to ``said``."""
    given = np.zeros((len(part.vertices), 3)) if part.normals is None else part.normals
    length = np.linalg.norm(given, axis=1, keepdims=True)
    usable = np.isfinite(length) & (length > 1e-12)
    if usable.any() or not np.isfinite(part.vertices).all():
        vertices = (part.vertices - origin).astype(np.float32)
        own = given / np.where(usable, length, 1)
        normals = own if usable.all() else np.where(usable, own, face_weighted_normals(vertices, part.faces))
    else:
        source, faces, normals = creased(part.vertices - origin, part.faces)
        part = _taken(part, source, faces)
        vertices = (part.vertices - origin).astype(np.float32)
    texture, uvs, tint = None, None, None if part.tint is None else part.tint.astype(np.float32)
    colors = np.full((len(vertices), 3), GREY) if part.colors is None else part.colors
    if part.picture is not None and part.uvs is not None:
        texture, uvs, lost = laid_out(part.picture, np.nan_to_num(part.uvs, posinf=0, neginf=0).astype(np.float32))
        said += [lost] * bool(lost)
        picture = torch.from_numpy(part.picture.pixels if texture is None else texture).float() / 255
        colors = tinted(sample_texture(picture, torch.from_numpy(uvs)).numpy(), tint)
    return SurfaceMesh(
        vertices,
        part.faces,
        normals.astype(np.float32),
        np.ascontiguousarray(colors, np.float32),
        0.0,
        uvs=None if texture is None else uvs,
        texture=texture,
        tint=None if texture is None else tint,
    )


def laid_out(picture: Picture, uvs: Floats) -> tuple[Bytes | None, Floats, str]:
    """A texture that is used beyond its sides, laid out as far as it is, its coordinates in 0..1, and what that costs.

    With too many repeats there is no texture, and the coordinates are those within one. Viewers differ in what they do
    outside 0..1 and the formats written here do not all say it; one picture is clear.
    """
    pixels, height, width = picture.pixels, *picture.pixels.shape[:2]
    low, high = np.floor(uvs.min(0).astype(np.float64) + EDGE), np.ceil(uvs.max(0).astype(np.float64) - EDGE)
    if (high - low > MOST_REPEATS).any() or (np.abs(low) > MOST_OFF).any():
        within = [_within(uvs[:, axis], picture.wrap[axis]) for axis in (0, 1)]
        lost = f"a texture repeats more than {MOST_REPEATS} times along a side: its colours were kept at vertices only"
        return None, np.stack(within, -1).astype(np.float32), lost
    lost = ""
    first = low.astype(int)
    times = np.maximum(high - low, 1).astype(int)
    if (times > 1).any() or first.any():
        size = min(width, MOST_TEXELS // int(times[0])), min(height, MOST_TEXELS // int(times[1]))
        if size != (width, height) and (times > 1).any():
            pixels = np.asarray(Image.fromarray(pixels).resize(size))
            lost = (
                f"a texture that repeats {times[0]} x {times[1]} times was laid out as one picture and shrunk from "
                f"{width} x {height} to {size[0]} x {size[1]} texels a time"
            )
        height, width = pixels.shape[:2]
        columns = _wrapped(np.arange(first[0] * width, (first[0] + times[0]) * width), width, picture.wrap[0])
        rows = _wrapped(np.arange(first[1] * height, (first[1] + times[1]) * height), height, picture.wrap[1])
        pixels = pixels[rows[:, None], columns]
    return np.ascontiguousarray(pixels), np.clip((uvs - first) / times, 0, 1).astype(np.float32), lost


def _wrapped(index: Ints, size: int, wrap: Wrap) -> Ints:
    """Which of ``size`` texels stands at an index beyond them."""
    if wrap == "clamp":
        return index.clip(0, size - 1)
    if wrap == "mirror":
        back = index % (2 * size)
        return np.minimum(back, 2 * size - 1 - back)
    return index % size


def _within(values: Floats, wrap: Wrap) -> Floats:
    """Coordinates brought into 0..1."""
    if wrap == "clamp":
        return values.clip(0, 1)
    folded = values % 2
    return cast(Floats, np.minimum(folded, 2 - folded) if wrap == "mirror" else values % 1)
