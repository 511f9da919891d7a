"""What no mesh can be made of, on the command line: a message, an exit status, and no file that is not whole.

The library's own answers are in ``test_mesh``, ``test_mesh_writers`` and ``test_unwrap``, the nodes' in
``test_nodes_mesh``.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import trimesh
from mesh_fields import Even, WavyField

from distill3d.cli import convert as convert_command
from distill3d.cli import export as export_command
from distill3d.cli import main

FIELDS = {
    "empty": (Even(0.0), "holds none"),
    "full": (Even(50.0), "fills the whole box"),
    "not a number": (Even(math.nan), "NaN or infinite"),
}
SMALL = ["--mesh.resolution", "16", "--texture.size", "64", "--texture.unwrap", "box"]


@pytest.fixture
def run_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Makes every checkpoint hold one field."""

    def hold(field: object) -> None:
        saved = SimpleNamespace(field=field, occupancy=None, facts={}, device=torch.device("cpu"))
        monkeypatch.setattr(export_command, "saved_run", lambda folder, command: saved)

    return hold


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_without_a_surface(
    run_of: Callable[[object], None], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    field, words = FIELDS[name]
    run_of(field)
    assert main(["export", str(tmp_path), *SMALL]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert words in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_a_full_disk_and_a_folder_in_the_way(
    run_of: Callable[[object], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_of(WavyField("sphere"))
    out, source = tmp_path / f"out.{suffix}", tmp_path / "in.ply"
    trimesh.creation.icosphere(2).export(source)
    commands = (["export", str(tmp_path), "--out"], ["convert", str(source)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for command in commands:
            more = SMALL if command[0] == "export" else []
            assert main([*command, str(out), *more]) == 1
            assert "the disk is full" in " ".join(capsys.readouterr().err.split())
            assert [path.name for path in tmp_path.iterdir()] == ["in.ply"]
    (tmp_path / "file").write_text("in the way")
    for command in commands:
        more = SMALL if command[0] == "export" else []
        assert main([*command, str(tmp_path / "file" / out.name), *more]) == 1
        assert "choose another" in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in.ply"]


def test_cancel_while_unwrapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trimesh.creation.icosphere(3).export(tmp_path / "in.ply")

    def cancelled(say: object) -> Callable[[str, float], None]:
        def tell(stage: str, share: float) -> None:
            if stage == "unwrap" and share > 0:
                raise KeyboardInterrupt

        return tell

    monkeypatch.setattr(convert_command, "spoken", cancelled)
    command = ["convert", str(tmp_path / "in.ply"), str(tmp_path / "out.glb"), "--face-budget", "500"]
    assert main(command) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["in.ply"]
