"""Every benchmark runs, and reports figures whose meaning is checked: ratios of its own times, spreads, exponents."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import nerfacc_stand_in as stand_in
import pytest
import torch

from distill3d.bench import encoder, render, scaling, sd15, step, timing
from distill3d.cli import main
from distill3d.render import marching


def test_spread_and_figures_of_known_times() -> None:
    assert timing.spread([1.0, 5.0]) == 2.0 and timing.spread([3.0]) == 0.0
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.5
    found = timing.figures({"a": [(1.0, 10.0), (3.0, 30.0), (2.0, 20.0)]}, "x_")
    assert found == {"cpu_ms_x_a": 2.0, "spread_cpu_ms_x_a": 1.0, "wall_ms_x_a": 20.0, "spread_wall_ms_x_a": 10.0}


def test_variants_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    times = timing.take_turns({name: functools.partial(order.append, name) for name in "ab"}, 2)
    assert order == ["a", "b"] * 3 and {name: len(t) for name, t in times.items()} == {"a": 2, "b": 2}


def test_render_compares_with_the_dense_query() -> None:
    found = render.run(sizes=(12, 24), samples=32, repeats=1, dense_up_to=12)
    assert found["speedup_12_vs_dense"] == found["cpu_ms_12_dense"] / found["cpu_ms_12_ours"] > 0
    assert "cpu_ms_24_ours" in found and "cpu_ms_24_dense" not in found


def test_exponents_of_power_laws() -> None:
    assert scaling.exponent([1, 2, 4, 8], [5, 20, 80, 320]) == pytest.approx(2.0)
    found = scaling.run(repeats=1, largest=4096, size=16, cells=(12, 24))
    assert {"exponent_points", "exponent_rays", "exponent_samples", "exponent_faces"} <= set(found)
    assert found["face_count_24"] > 2 * found["face_count_12"] > 0


def test_step_beside_its_bare_calls_on_random_weights_of_sd_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setattr(step, "random_sd15", functools.partial(sd15.random_sd15, pixels=64))
    found = step.run(iterations=1, size="sd15", side=16, width=32)
    assert found["batch"] == 1 and found["rows"] == 2
    assert found["speedup_limit_over_step"] == found["wall_ms_limit"] / found["wall_ms_step"] > 0
    assert found["overhead"] == pytest.approx(1 / found["speedup_limit_over_step"] - 1)
    assert {"render", "encode", "unet", "backward"} <= set(found["ms"])


def test_the_command_line_prints_one_json_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "render", "--json", "--sizes", "8", "--samples", "16", "--repeats", "1"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["benchmark"] == "render"
    (tmp_path / "a.json").write_text(text)
    assert main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 0
    assert main(["bench", "nothing"]) == 2


def test_a_settled_run_follows_one_of_its_own_kind() -> None:
    order: list[str] = []
    runs = {name: functools.partial(order.append, name) for name in "ab"}
    times = timing.take_turns(runs, 2, settle=True)
    assert "".join(order) == "ab" + 2 * "aabb" and {name: len(t) for name, t in times.items()} == {"a": 2, "b": 2}


def test_render_measures_nerfacc_beside_ours_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cuda" in render.run(sizes=(8,), samples=16, repeats=1)["refused"]["nerfacc"]
    stand_in.forget(monkeypatch)
    stand_in.install(monkeypatch)
    monkeypatch.setattr(marching, "DEVICES", ("cpu",))
    found = render.run(sizes=(8,), samples=16, repeats=1, dense_up_to=0)
    assert "nerfacc" not in found["refused"] and found["device"] == "cpu"
    assert found["speedup_8_nerfacc_vs_ours"] == found["cpu_ms_8_ours"] / found["cpu_ms_8_nerfacc"] > 0


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    missing = "mps" if torch.cuda.is_available() else "cuda"
    assert main(["bench", "render", "--device", missing, "--sizes", "8"]) == 1
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["render", "--sizes", "0"], "--sizes of 1 or more"),
        (["render", "--sizes"], "--sizes of 1 or more"),
        (["render", "--sizes", "8", "--share", "-1"], "share of the box from 0 to 0.5, got -1.0"),
        (["encoder", "--points", "0"], "--points of 1 or more"),
        (["memory", "--size", "0"], "--size of 1 or more"),
        (["scaling", "--largest", "10"], "--largest of 64 or more"),
        (["scaling", "--cells", "24", "24"], "two or more --cells"),
        (["memory", "--share", "0"], "share of the box above 0"),
        (["step", "--iterations", "0"], "--iterations of 1 or more"),
        (["step", "--iterations", "1", "--size", "sd15", "--width", "7"], "multiple of 32, got 7"),
    ],
)
def test_what_cannot_be_measured_is_said(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *flags, "--json"]) == 2
    captured = capsys.readouterr()
    assert says in " ".join(captured.err.split()) and captured.out == ""


def test_the_encoder_s_figures_name_their_device() -> None:
    found = encoder.run(repeats=1, points=64)
    assert found["device"] == "cpu" and found["gradient_difference_l8_vectorised"] < 1e-5
    assert encoder.backend_variants(torch.device("meta"))[1] == {}
    refused = encoder.backend_variants(torch.device("cuda"))[1] if not torch.cuda.is_available() else {"triton": ""}
    assert "triton" in refused
