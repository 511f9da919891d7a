"""Files of benchmarks side by side: what became slower than noise explains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill3d.bench import compare
from distill3d.cli import main
from distill3d.errors import SettingsError

BEFORE = {
    "benchmark": "encoder",
    "points": 1000,
    "cpu_ms_l8_ours": 100.0,
    "spread_cpu_ms_l8_ours": 1.0,
    "cpu_ms_l8_numba": 50.0,
    "spread_cpu_ms_l8_numba": 10.0,
    "mb_tiles": 100.0,
    "speedup_l8_vs_gather": 8.0,
    "ms": {"render": 10.0},
    "gradient_difference_l8_numba": 1e-7,
}


def test_compare_names_what_became_slower_than_noise() -> None:
    after = {
        **BEFORE,
        "cpu_ms_l8_ours": 112.0,  # beyond 3 * (1 % + 0.9 %)
        "cpu_ms_l8_numba": 60.0,  # within its noise
        "mb_tiles": 104.0,  # within 5 %
        "speedup_l8_vs_gather": 6.0,
        "ms": {"render": 7.0},
        "gradient_difference_l8_numba": 1e-3,  # no speed
    }
    changes = {c.name: c for c in compare.compare(BEFORE, after)}
    assert [n for n, c in changes.items() if c.worse] == ["cpu_ms_l8_ours", "speedup_l8_vs_gather"]
    assert [n for n, c in changes.items() if c.better] == ["ms.render"]
    assert not any(c.worse or c.better for c in compare.compare(BEFORE, BEFORE))


def test_compare_reads_the_figures_of_every_benchmark() -> None:
    before = {"shape": "torus", "ours": {"seconds": 10.0, "peak_mb": 500.0, "faces": 20000}, "speedup": 9.0}
    after = {**before, "ours": {"seconds": 20.0, "peak_mb": 500.0, "faces": 10}}
    assert [c.name for c in compare.compare(before, after) if c.worse] == ["ours.seconds"]
    assert compare.gone(before, {"ours": {}}) == ["ours.seconds", "ours.peak_mb", "speedup"]
    world = {"benchmark": "world", "images_per_cpu_second": {"plain": 1400.0, "full": 180.0}}
    slower = {**world, "images_per_cpu_second": {"plain": 1350.0, "full": 90.0}}
    assert [c.name for c in compare.compare(world, slower) if c.worse] == ["images_per_cpu_second.full"]


@pytest.mark.parametrize("other", [{"share": 0.2}, {"side": 128}, {"image_size": 32}])
def test_other_circumstances_are_not_compared(other: dict[str, float]) -> None:
    figures = {"cpu_ms_a": 1.0, "share": 0.1, "side": 64, "image_size": 64}
    with pytest.raises(SettingsError, match=f"one measurement, got {next(iter(other))}"):
        compare.compare(figures, {**figures, **other})
    parts = {"cpu_ms_a": 1.0, "share": {"unet": 0.4}}
    assert compare.compare(parts, {"cpu_ms_a": 1.0, "share": {"unet": 0.5}}), "a step's share is a figure"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_in_the_encoding_its_shell_wrote(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps(BEFORE).encode(encoding))
    assert compare.read(tmp_path / "a.json") == BEFORE


def test_verdicts_are_not_compared_as_if_they_were_timings(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"benchmark": "quality", "seconds": 1.0}))
    with pytest.raises(SettingsError, match="of the benchmark quality, which judges"):
        compare.read(tmp_path / "a.json")


def test_a_change_within_three_times_the_spreads_is_noise() -> None:
    def figures(wall: float) -> dict[str, float]:
        return {"wall_ms_step": wall, "spread_wall_ms_step": 10.0}

    assert [c.worse for c in compare.compare(figures(100.0), figures(140.0))] == [False]
    assert [c.worse for c in compare.compare(figures(100.0), figures(165.0))] == [True]


def test_odd_numbers_and_depths_are_no_crash(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(SettingsError, match="written by distill3d bench"):
        compare.read(tmp_path / "deep.json")
    odd = {"cpu_ms_a": 10**400, "cpu_ms_b": float("nan"), "cpu_ms_c": 1.0}
    assert [c.name for c in compare.compare(odd, odd)] == ["cpu_ms_c"]


def test_compare_names_what_is_no_longer_measured() -> None:
    after = {name: value for name, value in BEFORE.items() if "numba" not in name}
    assert compare.gone(BEFORE, after) == ["cpu_ms_l8_numba"] and compare.gone(after, BEFORE) == []


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_is_a_share(tolerance: float) -> None:
    with pytest.raises(SettingsError, match="tolerance of 0 or more"):
        compare.compare(BEFORE, BEFORE, tolerance)


def test_compare_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(BEFORE))
    b.write_text(json.dumps({**BEFORE, "cpu_ms_l8_ours": 200.0}))
    assert main(["bench", "compare", str(a), str(a)]) == 0
    assert main(["bench", "compare", str(a), str(b), "--json"]) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["worse"] == ["cpu_ms_l8_ours"]
    b.write_text(json.dumps({"benchmark": "encoder", "cpu_ms_l8_ours": 100.0}))
    assert main(["bench", "compare", str(a), str(b)]) == 0
    assert "gone" in capsys.readouterr().out
    b.write_text(json.dumps({**BEFORE, "points": 5}))
    assert main(["bench", "compare", str(a), str(b)]) == 2
    b.write_text("no json")
    assert main(["bench", "compare", str(a), str(b)]) == 2
