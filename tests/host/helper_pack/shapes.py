"""MESHes that core nodes could have made."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import Types

SQUARE = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]]
KINDS = ("square", "nothing", "point", "batch")


class TestMesh:
    """A square that faces +z with a picture, green above and red below; or a MESH that cannot be used."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "make", ("MESH",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": (list(KINDS),)}}

    def make(self, kind: str) -> tuple[Any]:
        vertices = torch.tensor([SQUARE], dtype=torch.float32)
        faces = torch.tensor([[[0, 1, 2], [0, 2, 3]]])
        if kind == "nothing":
            return (Types.MESH(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3, dtype=torch.int64)),)
        if kind == "point":
            return (Types.MESH(vertices * 0, faces),)
        uvs = torch.tensor([[[0.0, 1], [1, 1], [1, 0], [0, 0]]])
        picture = torch.zeros(1, 8, 8, 3)
        picture[:, :4, :, 1], picture[:, 4:, :, 0] = 1, 1
        if kind == "batch":
            both = torch.cat([vertices, 2 * vertices])
            return (Types.MESH(both, faces.repeat(2, 1, 1), uvs.repeat(2, 1, 1), texture=picture.repeat(2, 1, 1, 1)),)
        return (Types.MESH(vertices, faces, uvs, texture=picture),)
