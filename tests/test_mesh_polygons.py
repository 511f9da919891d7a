"""Faces of any shape as triangles: against the shoelace formula, points inside, and volumes of closed solids."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from distill3d.mesh import read
from distill3d.mesh.load import read_parts
from distill3d.mesh.readers.polygons import triangulate

STAR = np.array(
    [
        [np.cos(a) * r, np.sin(a) * r]
        for a, r in zip(np.arange(10) * np.pi / 5 + np.pi / 2, [1.0, 0.35] * 5, strict=True)
    ]
)
L_SHAPE = np.array([[1.0, 1.0], [1.0, 2.0], [0.0, 2.0], [0.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
ARROW = np.array([[0.0, 0.0], [1.0, -1.0], [0.3, 0.0], [1.0, 1.0]])
COMB = np.array([[x, y] for x in range(8) for y in ((0.2, 3.0), (3.0, 0.2))[x % 2]] + [[7.0, 0.0], [0.0, 0.0]])
HOLE = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [0, 0], [1, 1], [1, 3], [3, 3], [3, 1], [1, 1]], np.float64)
"""A square with a square hole, joined to its outline by a bridge that is walked twice."""


def shoelace(loop: np.ndarray) -> float:
    x, y = loop.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def contains(loop: np.ndarray, point: np.ndarray) -> bool:
    """Crossings of a ray to the right."""
    inside = False
    for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, 0), strict=True):
        if (y0 > point[1]) != (y1 > point[1]) and point[0] < x0 + (point[1] - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def turned(flat: np.ndarray, seed: int = 0) -> np.ndarray:
    """A flat loop somewhere in space."""
    frame, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return flat @ frame[:2] + [3.0, -2.0, 1.0]


def signed(flat: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    return np.array([shoelace(flat[t]) for t in triangles])


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("loop", [STAR, L_SHAPE, ARROW, COMB, HOLE], ids=["star", "L", "arrow", "comb", "hole"])
def test_triangles_cover_a_concave_face_once_and_stay_inside(loop: np.ndarray, backwards: bool) -> None:
    for shift in range(len(loop)):
        flat = np.roll(loop[::-1] if backwards else loop, shift, 0)
        found, owner = triangulate(turned(flat, shift), np.array([len(flat)]))
        areas = signed(flat, found) * np.sign(shoelace(flat))
        assert len(found) == len(flat) - 2 and not owner.any()
        assert areas.min() >= -1e-12, "no triangle is turned over"
        assert areas.sum() == pytest.approx(abs(shoelace(flat)))
        assert all(contains(flat, flat[t].mean(0)) for t, a in zip(found, areas, strict=True) if a > 1e-9)


def test_random_faces_of_all_sizes_in_one_go() -> None:
    random = np.random.default_rng(4)
    loops = []
    for count in [3, 4, 5, 9, 40, 4, 3, 200, 7, 2, 5]:
        angle = (np.arange(count) + random.random(count)) * 2 * np.pi / count  # no gap through which it crosses itself
        loops.append(np.stack([np.cos(angle), np.sin(angle)], -1) * random.uniform(0.2, 1, (count, 1)))
    points = np.concatenate([turned(loop, k) for k, loop in enumerate(loops)])
    counts = np.array([len(loop) for loop in loops])
    found, owner = triangulate(points, counts)
    assert np.bincount(owner, minlength=len(loops)).tolist() == [max(count - 2, 0) for count in counts]
    for k, loop in enumerate(loops):
        mine = found[owner == k] - (counts.cumsum() - counts)[k]
        if len(loop) > 2:
            assert signed(loop, mine).sum() == pytest.approx(shoelace(loop))
            assert np.abs(signed(loop, mine)).sum() == pytest.approx(abs(shoelace(loop)), rel=1e-6)


def test_a_face_that_runs_twice_round_and_one_without_area_are_no_trap() -> None:
    angle = np.arange(5) * 4 * np.pi / 5
    pentagram = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    line = np.array([[float(k), 0.0, 0.0] for k in range(6)])
    found, owner = triangulate(np.concatenate([pentagram, line]), np.array([5, 6]))
    assert np.bincount(owner).tolist() == [3, 4] and found.max() < 11


@pytest.mark.parametrize("count", [3000])
def test_many_corners_on_a_line_or_in_one_place_take_no_hour(count: int) -> None:
    line = np.zeros((count, 3))
    line[:, 0] = np.arange(count)
    found, owner = triangulate(np.concatenate([line, np.zeros((count, 3))]), np.array([count, count]))
    assert np.bincount(owner).tolist() == [count - 2, count - 2] and found.max() < 2 * count


def test_lists_whose_lengths_even_out_are_not_taken_for_equal_ones(tmp_path: Path) -> None:
    """Four, three and five corners take as many bytes as three times four."""
    points = np.array([[np.cos(a), np.sin(a), 0] for a in np.arange(8) * np.pi / 4])
    (tmp_path / "a.ply").write_bytes(as_ply(points, [[0, 1, 2, 3], [0, 3, 4], [0, 4, 5, 6, 7]], "binary_big_endian"))
    mesh = read(tmp_path / "a.ply")
    assert len(mesh.faces) == 6 and trimesh.Trimesh(mesh.vertices, mesh.faces).area == pytest.approx(8**0.5)


def prism(loop: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """A closed solid of height 2 over a loop, with two faces of many corners and walls of four."""
    count = len(loop)
    low, high = (np.column_stack([loop, np.full(count, z)]) for z in (0.0, 2.0))
    walls = [[k, (k + 1) % count, count + (k + 1) % count, count + k] for k in range(count)]
    return np.concatenate([low, high]), [list(range(count))[::-1], list(range(count, 2 * count)), *walls]


def as_obj(points: np.ndarray, faces: list[list[int]]) -> bytes:
    rows = [f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in points]
    return "\n".join([*rows, *("f " + " ".join(str(k + 1) for k in face) for face in faces)]).encode()


def as_off(points: np.ndarray, faces: list[list[int]]) -> bytes:
    rows = [f"{x:.9f} {y:.9f} {z:.9f}" for x, y, z in points]
    lines = [f"{len(face)} {' '.join(map(str, face))}" for face in faces]
    return "\n".join(["OFF", "# by hand", f"{len(rows)} {len(lines)} 0", *rows, *lines]).encode()


def as_ply(points: np.ndarray, faces: list[list[int]], order: str = "ascii") -> bytes:
    head = (
        f"ply\nformat {order} 1.0\nelement vertex {len(points)}\nproperty double x\nproperty double y\n"
        f"property double z\nelement face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()
    if order == "ascii":
        return head + "\n".join(as_off(points, faces).decode().split("\n")[3:]).encode()
    sign = "<" if "little" in order else ">"
    body = points.astype(f"{sign}f8").tobytes()
    return head + body + b"".join(struct.pack(f"{sign}B{len(face)}i", len(face), *face) for face in faces)


@pytest.mark.parametrize("kind", ["obj", "off", "ply", "ply little", "ply big"])
@pytest.mark.parametrize("loop", [STAR, COMB], ids=["star", "comb"])
def test_a_solid_with_concave_ends_has_its_volume_in_every_format(tmp_path: Path, kind: str, loop: np.ndarray) -> None:
    points, faces = prism(loop if shoelace(loop) > 0 else loop[::-1])
    path = tmp_path / f"a.{kind[:3]}"
    orders = {"ply little": ("binary_little_endian",), "ply big": ("binary_big_endian",)}
    writer = {"obj": as_obj, "off": as_off, "ply": as_ply}[kind[:3]]
    path.write_bytes(writer(points, faces, *orders.get(kind, ())))
    mesh = read(path)
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces)
    solid.merge_vertices(merge_norm=True)
    assert solid.is_watertight and solid.is_winding_consistent
    assert solid.volume == pytest.approx(2 * abs(shoelace(loop)), rel=1e-5)
    edges = np.linalg.norm(np.roll(loop, -1, 0) - loop, axis=1)
    assert solid.area == pytest.approx(2 * abs(shoelace(loop)) + 2 * edges.sum(), rel=1e-5)


@pytest.mark.parametrize(
    "colours", [("1 0 0 1", "0 1 0 1", "0 0 1 1"), ("255 0 0", "0 2 0", "0 0 1"), ("1.0 0 0", "0 1 0", "0 0 1")]
)
def test_off_colours_of_0_and_1_are_not_levels_of_255(tmp_path: Path, colours: tuple[str, ...]) -> None:
    points = ("0 0 0", "1 0 0", "0 1 0")
    rows = [f"{point} {colour}" for point, colour in zip(points, colours, strict=True)]
    file = tmp_path / "a.off"
    file.write_text("\n".join(["COFF", "3 1 0", *rows, "3 0 1 2"]))
    (part,) = read_parts(file)
    red = part.colors[np.argmin(np.linalg.norm(part.vertices - part.vertices.min(0), axis=1))]
    assert red.tolist() == pytest.approx([1, 0, 0], abs=0.01)


def test_a_face_of_thousands_of_corners_is_cut_without_loss() -> None:
    t = np.linspace(0.5, 20, 3000)
    inner, outer = (np.stack([r * np.cos(t), r * np.sin(t), np.zeros_like(t)], -1) for r in (t, t + 0.5))
    loop = np.concatenate([outer, inner[::-1]])
    triangles, _ = triangulate(loop, np.array([len(loop)]))
    area = np.cross(*(loop[triangles[:, k]] - loop[triangles[:, 0]] for k in (1, 2)))[:, 2] / 2
    x, y, _ = loop.T
    assert len(triangles) == len(loop) - 2 and area.min() > -1e-12
    assert area.sum() == pytest.approx((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)
