"""OBJ, PLY, STL and OFF as other programs write them: materials, colours of faces, odd numbers, files cut off."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from distill3d.errors import MeshFileError
from distill3d.mesh import MeshSettings, TextureSettings, convert_for, read, write
from distill3d.mesh.beside import find, picture_of
from distill3d.mesh.load import read_parts

QUAD = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3 4/4\n"
BLUE = np.full((4, 4, 3), (0, 0, 255), np.uint8)
PATCHES = np.zeros((2, 2, 3), np.uint8)
PATCHES[0, 0], PATCHES[0, 1], PATCHES[1, 0], PATCHES[1, 1] = (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)


def picture(path: Path, pixels: np.ndarray = BLUE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("brick.png", "brick.png"),
        ("textures\\old wall\\brick.png", "textures/old wall/brick.png"),
        ("./textures/brick.png", "textures/brick.png"),
        ("-s 1 1 1 brick.png", "brick.png"),
        ("-s 1 1 brick.png", "brick.png"),
        ("-clamp on -mm 0 1 -o 0 0 0 my brick.png", "my brick.png"),
        ("-blendu on -bm 0.5 -texres 512 brick (copy).png", "brick (copy).png"),
        ("C:\\Users\\someone\\brick.png", "brick.png"),
        ("/home/someone/brick.png", "brick.png"),
        ("../shared/brick.png", "brick.png"),
        ("Brick.PNG", "brick.png"),
        ('"my brick.png"', "my brick.png"),
    ],
)
def test_a_texture_is_found_however_its_path_is_written(tmp_path: Path, line: str, name: str) -> None:
    (tmp_path / "a.obj").write_text(QUAD)
    (tmp_path / "a.mtl").write_text(f"newmtl m\nKd 0.8 0.8 0.8\nmap_Kd {line}\n")
    picture(tmp_path / name)
    (part,) = read_parts(tmp_path / "a.obj")
    assert part.texture is not None and (part.texture == [0, 0, 255]).all() and "warnings" not in part.report
    (tmp_path / name).unlink()
    lost = read(tmp_path / "a.obj")
    assert lost.texture is None and picture_of(line)[0] in lost.report["warnings"][0]


def test_a_texture_outside_the_folder_is_never_read(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "a.obj").write_text(QUAD)
    picture(tmp_path / "secret.png")
    for line in ("../secret.png", f"{tmp_path}/secret.png", "sub/../../secret.png"):
        (inner / "a.mtl").write_text(f"newmtl m\nmap_Kd {line}\n")
        mesh = read(inner / "a.obj")
        assert mesh.texture is None and "secret.png" in mesh.report["warnings"][0]
        assert find(inner, line) is None
    (tmp_path / "b.mtl").write_text("newmtl m\nKd 1 0 0\n")
    (inner / "a.obj").write_text(QUAD.replace("a.mtl", "../b.mtl"))
    assert "b.mtl" in read(inner / "a.obj").report["warnings"][0]


def test_the_options_of_a_texture_move_and_clamp_it(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(QUAD)
    picture(tmp_path / "p.png", np.kron(PATCHES, np.ones((8, 8, 1), np.uint8)))
    # half as large and up by half: each corner lies within the upper row, left or right
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd -s 0.5 0.3 1 -o 0.25 0.6 p.png\n")
    colors = read(tmp_path / "a.obj").colors
    assert colors == pytest.approx(np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]]) * 250 / 255, abs=0.01)
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd -clamp on -o 5 5 p.png\n")
    mesh = read(tmp_path / "a.obj")
    assert mesh.texture is not None and mesh.colors == pytest.approx(np.tile([0, 250 / 255, 0], (4, 1)), abs=0.01)


def test_a_damaged_texture_and_transparency_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(QUAD)
    (tmp_path / "p.png").write_bytes(b"no picture")
    (tmp_path / "a.mtl").write_text("newmtl m\nKd 0.2 0.4 0.6\nd 0.5\nmap_Kd -t 1 1 1 p.png\n")
    mesh = read(tmp_path / "a.obj")
    (text,) = mesh.report["warnings"]
    assert "the picture p.png, which is damaged" in text and "transparency" in text
    assert mesh.colors == pytest.approx(np.tile([0.2, 0.4, 0.6], (4, 1)))


def test_relative_numbers_count_back_from_their_own_line(tmp_path: Path) -> None:
    """As programs write them that append one piece after the other."""
    piece = "v {0} 0 0\nv {1} 0 0\nv {0} 1 0\nvn 0 0 1\nf -3//-1 -2//-1 -1//-1\n"
    (tmp_path / "a.obj").write_text("".join(piece.format(k, k + 1) for k in range(5)) + "f 1//1 2//1 3//1 \\\n  6//1\n")
    mesh = read(tmp_path / "a.obj")
    assert len(mesh.faces) == 7
    middles = mesh.vertices[mesh.faces].mean(1)
    assert middles[:5, 0] == pytest.approx(np.arange(5) + 1 / 3)


def test_corners_with_and_without_uvs_and_normals_mix(tmp_path: Path) -> None:
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd p.png\n")
    picture(tmp_path / "p.png")
    (tmp_path / "b.obj").write_text(QUAD.replace("f 1/1 2/2 3/3 4/4", "f 1 2 3 4"))
    assert "no texture coordinates" in read(tmp_path / "b.obj").report["warnings"][0]
    (tmp_path / "a.obj").write_text(QUAD + "vn 0 0 1\nv 2 0 0\nf 2 5 3\nf 1/1/1 2/2/ 3/3\nf 1//1 5//1 2//\n")
    mesh = read(tmp_path / "a.obj")
    assert len(mesh.faces) == 5 and mesh.texture is not None and np.abs(mesh.normals[:, 2]) == pytest.approx(1)


def test_materials_stay_apart_and_vertex_colours_come_before_plain_ones(tmp_path: Path) -> None:
    rows = [f"v {x} {y} 0 {x} {y} 0.5" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    text = "\n".join(["mtllib a.mtl", *rows, "usemtl red", "f 1 2 3", "usemtl none", "f 1 3 4", "usemtl red"])
    (tmp_path / "a.obj").write_text(text)
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    parts = read_parts(tmp_path / "a.obj")
    assert len(parts) == 2
    for part in parts:
        assert part.colors == pytest.approx(np.column_stack([part.vertices[:, :2], np.full(3, 0.5)]))


HEAD = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
FACE = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
SQUARE = "0 0 0{0}\n1 0 0{0}\n1 1 0{0}\n0 1 0{0}\n"


def test_a_ply_of_four_cornered_faces_with_colours(tmp_path: Path) -> None:
    cube = trimesh.creation.box()
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    tones = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (9, 9, 9)]
    head = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 6\nproperty list uchar uint vertex_indices\nproperty uchar red\nproperty uchar green\n"
        "property uchar blue\nend_header\n"
    )
    body = cube.vertices.astype("<f4").tobytes()
    body += b"".join(struct.pack("<B4I3B", 4, *quad, *tone) for quad, tone in zip(quads, tones, strict=True))
    (tmp_path / "a.ply").write_bytes(head.encode() + body)
    mesh = read(tmp_path / "a.ply")
    assert len(mesh.faces) == 12 and len(mesh.vertices) == 24
    for k, tone in enumerate(tones):
        assert mesh.colors[mesh.faces[2 * k : 2 * k + 2]] == pytest.approx(np.tile(np.array(tone) / 255, (2, 3, 1)))


@pytest.mark.parametrize(
    ("kind", "names", "values", "true"),
    [
        ("uchar", "diffuse_red diffuse_green diffuse_blue", "255 51 0", (1, 0.2, 0)),
        ("uchar", "red green blue", "255 51 0", (1, 0.2, 0)),
        ("float", "red green blue", "1 0.2 0", (1, 0.2, 0)),
        ("float", "r g b", "255 51 0", (1, 0.2, 0)),
        ("ushort", "red green blue", "65535 13107 0", (1, 0.2, 0)),
    ],
)
def test_the_colours_of_a_ply_by_all_their_names(
    tmp_path: Path, kind: str, names: str, values: str, true: tuple[float, ...]
) -> None:
    head = HEAD + "".join(f"property {kind} {name}\n" for name in names.split())
    text = head + "element face 1\nproperty list uchar int vertex_index\nend_header\n"
    (tmp_path / "a.ply").write_text(text + SQUARE.format(" " + values) + "4 0 1 2 3\n")
    assert read(tmp_path / "a.ply").colors == pytest.approx(np.tile(true, (4, 1)), abs=1e-6)


@pytest.mark.parametrize("wedge", [False, True])
def test_a_ply_with_a_texture(tmp_path: Path, wedge: bool) -> None:
    uvs = [(0.25, 0.75), (0.75, 0.75), (0.75, 0.25), (0.25, 0.25)]
    own = "" if wedge else "property float s\nproperty float t\n"
    face = "element face 1\nproperty list uchar int vertex_indices\n"
    face += "property list uchar float texcoord\n" if wedge else ""
    rows = "".join(
        f"{x} {y} 0{'' if wedge else f' {u} {v}'}\n"
        for (x, y), (u, v) in zip(((0, 0), (1, 0), (1, 1), (0, 1)), uvs, strict=True)
    )
    flat = " ".join(f"{u} {v}" for u, v in uvs)
    text = HEAD.replace("1.0\n", "1.0\ncomment TextureFile my p.png\n", 1) + own + face + "end_header\n" + rows
    (tmp_path / "a.ply").write_text(text + "4 0 1 2 3" + (f" 8 {flat}" if wedge else "") + "\n")
    picture(tmp_path / "my p.png", PATCHES)
    mesh = read(tmp_path / "a.ply")
    assert mesh.texture is not None
    true = {(0, 0): (250, 0, 0), (1, 0): (0, 250, 0), (1, 1): (250, 250, 0), (0, 1): (0, 0, 250)}
    for place, color in zip(mesh.vertices, mesh.colors, strict=True):
        assert color == pytest.approx(np.array(true[tuple(place[:2].astype(int))]) / 255, abs=0.01)
    (tmp_path / "my p.png").unlink()
    assert "my p.png" in read(tmp_path / "a.ply").report["warnings"][0]


def stl(head: bytes, bits: list[int]) -> bytes:
    box = trimesh.creation.box()
    rows = [struct.pack("<12fH", 0, 0, 0, *box.triangles[k].ravel(), bit) for k, bit in enumerate(bits)]
    return head.ljust(80, b" ") + struct.pack("<I", len(rows)) + b"".join(rows)


@pytest.mark.parametrize(
    ("head", "red", "none", "plain"),
    [
        (b"VisCAM", 0x8000 | 31 << 10, 31 << 10, (0.8, 0.8, 0.8)),
        (b"COLOR=" + bytes([0, 51, 255, 255]) + b",MATERIAL=", 31, 0x8000, (0, 0.2, 1)),
    ],
    ids=["VisCAM", "Magics"],
)
def test_a_coloured_stl(tmp_path: Path, head: bytes, red: int, none: int, plain: tuple[float, ...]) -> None:
    (tmp_path / "a.stl").write_bytes(stl(head, [red] * 6 + [none] * 6))
    mesh = read(tmp_path / "a.stl")
    assert mesh.colors[mesh.faces[:6]] == pytest.approx(np.tile([1, 0, 0], (6, 3, 1)))
    assert mesh.colors[mesh.faces[6:]] == pytest.approx(np.tile(plain, (6, 3, 1)))
    (tmp_path / "b.stl").write_bytes(stl(b"some program", [0] * 12))
    assert read(tmp_path / "b.stl").colors == pytest.approx(0.8)


def test_an_off_with_colours_and_normals(tmp_path: Path) -> None:
    (tmp_path / "a.off").write_text("OFF 4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2 255 0 0\n3 0 2 3 0 0 255 255\n")
    mesh = read(tmp_path / "a.off")
    assert mesh.colors[mesh.faces[0]] == pytest.approx(np.tile([1, 0, 0], (3, 1)))
    assert mesh.colors[mesh.faces[1]] == pytest.approx(np.tile([0, 0, 1], (3, 1)))
    (tmp_path / "b.off").write_text(
        "CNOFF\n3 1 0\n0 0 0 0 0 1 0.5 0 1\n1 0 0 0 0 1 0 1 0\n0 1 0 0 0 1 1 1 1\n3 0 1 2\n"
    )
    mesh = read(tmp_path / "b.off")
    assert mesh.colors[0] == pytest.approx([0.5, 0, 1]) and mesh.normals[:, 2] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.stl", stl(b"x", [0] * 12)[:-70], r"cut off: 12 triangles were announced and 10 are there"),
        ("b.stl", b"solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\n", "cut off"),
        ("m.stl", b"solid x\nendsolid x\nsolid y\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n", "cut off"),
        ("n.stl", b"solid x\nfacet\nvertex 0 0 q\nvertex 1 0 0\nvertex 0 1 0\nendsolid\n", "could not read"),
        ("o.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4 0 1 2\n", "a face has fewer numbers than announced"),
        ("q.ply", (HEAD + FACE + SQUARE.format("") + "4 0 1 2\n").encode(), "a face has fewer numbers than announced"),
        ("p.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 zz 1\nf 1//1 2//1 3//1\n", "could not read"),
        ("c.stl", b"", r"is empty \(0 bytes\)"),
        ("d.ply", (HEAD + "end_header\n0 0 0\n").encode(), "4 of vertex were announced and 1 are there"),
        (
            "e.ply",
            (HEAD.replace("ascii", "binary_little_endian") + "end_header\n").encode() + b"123",
            "4 of vertex were announced and 0 are there",
        ),
        ("f.off", b"OFF\n4 1 0\n0 0 0\n", "cut off: 5 lines were announced and 1 are there"),
        ("g.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "does not exist"),
        ("h.obj", b"v 0 0 0\nv 1 zero 0\nv 0 1 0\nf 1 2 3\n", "zero"),
        ("i.ply", b"v 0 0 0\n", "does not begin with a PLY header"),
        ("j.glb", b"", "is empty"),
        ("k.gltf", b"{", "could not read"),
        ("l.obj", b"\x89PNG\r\n\x1a\n\x00\x00f 1 2 3", "could not read|found none"),
    ],
)
def test_files_cut_off_are_told_so(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MeshFileError, match=words):
        read(tmp_path / name)


def test_faces_that_lie_on_others_are_counted_and_dropped(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    faces = np.concatenate([box.faces, box.faces[:3], box.faces[3:5, ::-1]])
    trimesh.Trimesh(box.vertices, faces, process=False).export(tmp_path / "a.ply")
    mesh = read(tmp_path / "a.ply")
    assert mesh.report["warnings"][0].startswith("5 faces lie exactly on others")
    done = convert_for(".ply", [mesh], MeshSettings(face_budget=0, component_share=0.01), TextureSettings())
    assert len(done.faces) == 12 and done.report["watertight"]


def test_ply_takes_the_colours_of_a_texture_and_stl_says_what_it_loses(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(QUAD)
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd p.png\n")
    picture(tmp_path / "p.png", PATCHES)
    parts = read_parts(tmp_path / "a.obj")
    whole = MeshSettings(face_budget=0, component_share=0)
    done = convert_for(".ply", parts, whole, TextureSettings())
    assert "its colours were taken at the vertices" in done.report["warnings"][-1]
    found = trimesh.load(write(done, tmp_path / "b.ply"), process=False)
    tones = {tuple(p[:2]): tuple(c[:3]) for p, c in zip(found.vertices, found.visual.vertex_colors, strict=True)}
    assert tones == {(0, 1): (250, 0, 0), (1, 1): (0, 250, 0), (0, 0): (0, 0, 250), (1, 0): (250, 250, 0)}
    assert (
        "the texture of the mesh was left out"
        in convert_for(".stl", parts, whole, TextureSettings()).report["warnings"][-1]
    )
    assert not any(
        "texture" in text for text in convert_for(".glb", parts, whole, TextureSettings()).report["warnings"]
    )


def test_what_trimesh_reads_in_another_way_is_not_told_as_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box = trimesh.creation.box()
    text = re.sub(r"facet normal \S+", "facet normal abc", box.export(file_type="stl_ascii"), count=1)
    (tmp_path / "a.stl").write_text(text)
    assert read(tmp_path / "a.stl").vertices.max(0) == pytest.approx(box.vertices.max(0))
    assert not [record for record in caplog.records if record.name.startswith("trimesh")]
