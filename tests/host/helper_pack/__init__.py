"""Nodes for tests: models and meshes that no small download gives; see also ``prestartup_script.py``."""

from __future__ import annotations

from .models import TestControlNet, TestModel, TestPackMesh
from .shapes import TestMesh

NODE_CLASS_MAPPINGS: dict[str, type] = {
    "TestModel": TestModel,
    "TestControlNet": TestControlNet,
    "TestPackMesh": TestPackMesh,
    "TestMesh": TestMesh,
}
