"""Compare Runs on a stand-in host: rows, curves, and what it says of runs that were not alike."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType
from typing import Any

import fake_host
import pytest
import torch
from nodes_kit import get, loss, optimise


def compare(*fields: Any, size: int = 24) -> Any:
    given = {f"field_{i + 1}": field for i, field in enumerate(fields)}
    with torch.inference_mode():
        return get("compare_runs").CompareRuns.execute(size, **given)


def rows(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]


def test_two_methods_have_a_row_each_and_nothing_to_remark(pack: ModuleType) -> None:
    sds, csd = optimise(loss("SDS"), 4), optimise(loss("CSD"), 3, "iterations = 4")
    sheet, curves, table = compare(sds.args[0], csd.args[0]).args
    head, _, first, second = rows(table)
    assert [first[0], second[0]] == ["SDS", "CSD"] and first[head.index("iterations")] == "4"
    assert "not the same" not in table
    norms = dict(json.loads(sds.args[2])["curves"]["series"]["gradient_norm"])
    assert list(norms) == [1, 2, 3, 4]
    assert float(first[head.index("gradient norm mean")]) == pytest.approx(sum(norms.values()) / 4, rel=1e-3)
    assert sheet.shape[0] == 1 and sheet.shape[1] > 4 * 24 and sheet.shape[2] == 4 * 24
    lone = compare(sds.args[0]).args
    assert lone[0].shape[1] * 2 == sheet.shape[1] and lone[1].shape == curves.shape
    assert not torch.equal(lone[1], curves) and len(rows(lone[2])) == 3
    assert [preview[1].size[0] for _, preview in fake_host.ProgressBar.seen if preview][-1] == 4 * 24


def test_the_report_keeps_the_runs_own_curves(pack: ModuleType) -> None:
    report = json.loads(optimise(loss("SDS"), 3).args[2])
    assert {"loss", "gradient_norm", "norm/classifier", "norm/generation"} <= set(report["curves"]["series"])
    assert all(0 <= t <= 100 and e > 0 for t, e in report["curves"]["noise_error"])


def test_runs_that_differ_in_more_than_the_method_are_told_of(pack: ModuleType) -> None:
    first, second = optimise(iterations=2), optimise(iterations=3, more="batch = 1")
    table = compare(first.args[0], second.args[0]).args[2]
    assert [row[0] for row in rows(table)[2:]] == ["SDS 1", "SDS 2"]
    assert "iterations is not the same for all: 2, 3" in table and "batch is not the same for all: 2, 1" in table
    assert "seed is not" not in table and "prompt is not" not in table


def test_a_field_without_its_report_and_cancel(pack: ModuleType) -> None:
    field = optimise(iterations=2).args[0]
    name = get("field").SaveField.execute(field, "distill3d/field/ball").args[0]
    with pytest.raises(importlib.import_module("pack.distill3d.errors").SettingsError, match="wire NeRF Optimizer"):
        compare(field, get("field").LoadField.execute(name).args[0])
    sys.modules["comfy.model_management"].interrupt = True
    with pytest.raises(fake_host.InterruptProcessingException):
        compare(field)
