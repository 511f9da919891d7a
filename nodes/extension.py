"""The extension the host loads: the list of nodes, two routes, one line in the log."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from . import environment
from .cfg_schedule import CFGSchedule
from .compare_runs import CompareRuns
from .distill2d import Distill2D, Toy2D
from .distill_loss import DistillLoss
from .environment import EnvironmentReport
from .field import LoadField, SaveField
from .freeu import FreeUPatch
from .host.stop import add_routes
from .load_sd import LoadSD
from .mesh_convert import MeshConvert
from .mesh_export import MeshExport
from .optimizer import NeRFOptimizer, Resume
from .turntable import RenderTurntable
from .view_prompts import ViewPromptsNode

NODES: tuple[type[io.ComfyNode], ...] = (
    LoadSD,
    FreeUPatch,
    CFGSchedule,
    ViewPromptsNode,
    DistillLoss,
    NeRFOptimizer,
    RenderTurntable,
    MeshExport,
    SaveField,
    LoadField,
    Resume,
    EnvironmentReport,
    Distill2D,
    Toy2D,
    CompareRuns,
    MeshConvert,
)


class Distill3DExtension(ComfyExtension):
    async def on_load(self) -> None:
        add_routes(PromptServer.instance)
        logging.getLogger(__name__).info(environment.line())
        logging.getLogger("distill3d").setLevel(logging.INFO)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
