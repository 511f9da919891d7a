"""What the tests of the nodes share: a fake MODEL that dreams of red, prompts, a loss, a short run."""

from __future__ import annotations

import importlib
from typing import Any

import fake_host
import torch

SIZE = 16
COARSE = "field.grid.levels = 2\nrender.samples_per_ray = 16\noccupancy_resolution = 16\nresolution = 16"


def get(name: str) -> Any:
    """A module of the pack."""
    return importlib.import_module(f"pack.nodes.{name}")


def model(sampling: Any = None) -> Any:
    red = torch.tensor([1.0, -1.0, -1.0, 0.0]).reshape(4, 1, 1).expand(4, SIZE // 2, SIZE // 2) * 2
    base = fake_host.Base({"red": red, "grey": torch.zeros_like(red)}, sampling or fake_host.EPS())
    patcher = fake_host.Patcher(base)
    tags = get("host.tags")
    tags.put_tag(patcher, tags.Tag("fake", bundled=True, image_size=SIZE))
    return patcher


def prompts(text: str = "a red ball") -> Any:
    sectors = "side | -180..180 | -90..90 | , side view"
    node = get("view_prompts").ViewPromptsNode
    return node.execute(fake_host.Clip({f"{text}, side view": 0, "": 1}), text, "", sectors).args[0]


def loss(name: str = "SDS", patcher: Any = None, own: dict[str, Any] | None = None, **more: Any) -> Any:
    """A loss; ``own`` are the method's widgets."""
    method = {"method": name, **(own or {})}
    return get("distill_loss").DistillLoss.execute(patcher or model(), prompts(), method, **more).args[0]


def preset(iterations: int, more: str = "") -> dict[str, Any]:
    values = {"base": "draft", "iterations": iterations, "batch": 2, "resolution": "auto", "image_size": 0}
    return {"preset": "custom", **values, "checkpoint_every": 50, "more": f"{COARSE}\n{more}"}


def optimise(made: Any = None, iterations: int = 3, more: str = "", **rest: Any) -> Any:
    node = get("optimizer").NeRFOptimizer
    with torch.inference_mode():
        return node.execute(made or loss(), fake_host.Vae(), preset(iterations, more), 0, "distill3d/run/t", **rest)
