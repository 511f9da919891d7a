"""Compare Runs: finished objects beside each other, as a sheet, curves and a table."""

from __future__ import annotations

from typing import Any

import comfy.model_management as manager
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..distill3d.errors import SettingsError
from ..distill3d.optimize import compared
from ..distill3d.plots import stack
from ..distill3d.render.pictures import contact_sheet
from ..distill3d.two_d.pictures import table
from .field import expect_field
from .images import tensor_of
from .types import FieldType, RadianceField
from .words import in_words

MOST = 7


class CompareRuns(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        tips = ["A run, from NeRF Optimizer.", *["Another run, of another method or with other settings."] * (MOST - 1)]
        fields = [FieldType.Input(f"field_{i + 1}", optional=i > 0, tooltip=tip) for i, tip in enumerate(tips)]
        return io.Schema(
            node_id="Distill3D_CompareRuns",
            display_name="Compare Runs",
            category="Distill3D",
            description=(
                "Finished runs beside each other: a row of views each, gradient lengths, opacity and noise-prediction "
                "error in one chart, and a table. With one prompt and seed, methods differ in nothing but the method."
            ),
            search_aliases=["compare methods", "bake-off", "contact sheet", "curves", "diagnostics"],
            inputs=[
                *fields,
                io.Int.Input("size", default=128, min=16, max=1024, step=8, tooltip="Side of a view in pixels."),
            ],
            outputs=[
                io.Image.Output(
                    "sheet", display_name="sheet", tooltip="Colour and normals from four sides for each run."
                ),
                io.Image.Output(
                    "curves",
                    display_name="curves",
                    tooltip="Gradient lengths, opacity, and the noise-prediction error e(t) of each run.",
                ),
                io.String.Output(
                    "table", display_name="table", tooltip="A row a run, as markdown: for Preview as Text."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    @in_words
    def execute(cls, size: int, **fields: Any) -> io.NodeOutput:
        held = [expect_field(fields[f"field_{i + 1}"]) for i in range(MOST) if fields.get(f"field_{i + 1}") is not None]
        if not held:
            raise SettingsError("expected the field of at least one run, got none: wire NeRF Optimizer to field_1")
        if bare := next((field for field in held if not field.report), None):
            raise SettingsError(
                f"expected fields with the report of their run, got one without ({bare.saved.facts['prompt']!r}, from "
                "Load Radiance Field or Resume): wire NeRF Optimizer here"
            )
        reports = [field.report for field in held]
        names = compared.labels(reports)
        bar = comfy.utils.ProgressBar(len(held), node_id=cls.hidden.unique_id)
        rows = []
        with torch.inference_mode(False):
            for i, (field, name) in enumerate(zip(held, names, strict=True)):
                manager.throw_exception_if_processing_interrupted()
                rows.append(_row(field, name, size))
                bar.update_absolute(i + 1, len(held), ("JPEG", rows[-1], None))
        sheet = tensor_of(stack(rows))
        curves = tensor_of(compared.curves(dict(zip(names, reports, strict=True))))
        told = table([compared.row(report) | {"method": name} for report, name in zip(reports, names, strict=True)])
        notes = "".join(f"\n{line}\n" for line in compared.differences(reports))
        return io.NodeOutput(sheet, curves, told + notes, ui=ui.PreviewImage(sheet, cls=cls))


def _row(field: RadianceField, name: str, size: int) -> Any:
    facts = field.saved.facts
    return contact_sheet(
        field.saved.field,
        size=size,
        kinds=("colour", "normal"),
        occupancy=field.saved.occupancy,
        title=f"{name}, {facts['prompt']}, seed {facts['seed']}",
    )
