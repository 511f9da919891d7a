"""The export benchmark: a small run of its routes as they are, and verdicts that follow from the figures."""

from __future__ import annotations

import json

import pytest

from distill3d.bench import export
from distill3d.bench.export import ExportSettings
from distill3d.cli import main
from distill3d.errors import SettingsError

SMALL = ["--shape", "sphere", "--resolution", "24", "--texture", "64", "--faces", "300", "--views", "2"]
SMALL += ["--view-size", "16", "--input-faces", "1000"]


def test_small_routes_are_measured_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "export", *SMALL, "--routes", "ours", "large", "whole", "--likeness", "cone", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ours"]["faces"] <= 300 < 900 < found["large"]["faces_in"] <= 1000
    assert found["large"]["faces"] <= 300 and found["whole"]["faces"] == found["whole"]["faces_in"]
    for route in ("ours", "large", "whole"):
        row = found[route]
        stages = [value for name, value in row.items() if name.startswith("seconds_")]
        assert 0 < sum(stages) <= 1.01 * row["seconds"] and row["psnr_db"] > 15
        assert {"seconds_unwrap", "seconds_bake", "seconds_write"} <= set(row)
    alike = found["likeness"]["cone"]
    assert alike["textured_db"] > 15 < alike["vertices_db"] and alike["textured_faces"] < alike["vertices_faces"]
    assert [row["figure"] for row in found["targets"][-2:]] == ["cone: textured", "cone: vertices - textured"]
    assert "naive" not in found and {row["met"] for row in found["targets"]} <= {True, False}


def test_targets_are_judged_from_the_figures_and_an_unfinished_route_misses_them() -> None:
    result = {
        "ours": {"seconds": 15.1, "peak_mb": 1500.0, "psnr_db": 29.9},
        "vertices": {"psnr_db": 30.8},
        "large": {"stopped_after": 61.0},
        "likeness": {"cone": {"textured_db": 33.0, "vertices_db": 34.5}, "sphere": {"failed": "no memory"}},
    }
    verdicts = {row["figure"]: row["met"] for row in export.judged(result)}
    assert verdicts == {
        "ours.seconds": False, "ours.peak_mb": True, "ours.psnr_db": False, "large.seconds": False,
        "large.peak_mb": False, "vertices.psnr_db - ours.psnr_db": True, "cone: textured": True,
        "cone: vertices - textured": False, "sphere: textured": False, "sphere: vertices - textured": False,
    }  # fmt: skip
    text = export.markdown({"shape": "torus", **result, "targets": export.judged(result)})
    assert "| torus | ours | vertices | large |" in text
    assert "| ours.seconds | at most 15 | 15.10 | NO |" in text and "| large.seconds | at most 60 |  | NO |" in text


def test_without_views_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_measure", lambda name, settings, source: {"seconds": 1.0, "peak_mb": 2.0})
    result = export.run(ExportSettings(views=0, routes=("ours", "large")))
    assert result["likeness"] == {} and "| ours.seconds | at most 15 | 1.00 | yes |" in export.markdown(result)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": "teapot"}, "shape from"),
        ({"likeness": ("sphere", "teapot")}, "shape from"),
        ({"view_size": 4}, "got 24, 4 and"),
        ({"routes": ("ours", "fast")}, "got fast"),
        ({"routes": ()}, "got none"),
        ({"input_faces": 3}, "100 to 4,000,000"),
        ({"resolution": 1}, "mesh resolution of 8"),
        ({"faces": -5}, "expected"),
        ({"texture": -1}, "expected"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(change: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ExportSettings(**change)


def test_what_was_left_out_misses_no_target() -> None:
    figures = {"ours": {"seconds": 1.0, "peak_mb": 100.0}}
    assert [row["figure"] for row in export.judged(figures, likeness=False)] == ["ours.seconds", "ours.peak_mb"]
    assert not export.judged(figures)[-1]["met"]
