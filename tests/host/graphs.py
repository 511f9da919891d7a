"""Graphs in API format, small enough for a test: a few iterations of a coarse field on the bundled prior."""

from __future__ import annotations

from typing import Any

TINY = "bundled tiny prior"
TEXT_WIDTH = 160
"""Width of the bundled prior's text embeddings; helper_pack/models.py has its own."""
SECTORS = "side | -180..180 | -90..90 | , side view\nfront | -45..45 | -90..90 | , front view"
COARSE = "field.grid.levels = 3\nrender.samples_per_ray = 32"
METHODS: dict[str, dict[str, Any]] = {
    "SDS": {"guidance": "auto", "guidance_over": "iterations"},
    "CSD": {"target": "auto", "negative": "auto", "null": "auto"},
    "ASD": {"guidance": "auto", "eta": "0.1", "random": "on", "t_min": "none", "guidance_over": "iterations"},
    "TBSD": {"source": "target_negative", "modifier": "blurry", "given": "", "kappa": "auto", "unit_norm": "auto"},
    "NFSD": {"negative": "blurry", "low": "0.2"},
    "BRIDGE": {"target": "sharp", "modifier": "blurry", "weighted": "off"},
    "BSD": {},
}
"""Settings as a page sends them, some left out as in prompts that were saved before they existed."""
PERP_NEG = {"strength": "auto"}
TEXTURE = {
    "size": 128,
    "supersample": 1,
    "normal_map": True,
    "occlusion": False,
    "unwrap": "box",
    "unwrap_seconds": 30.0,
    "padding": 2,
    "image": "png",
}


def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def ours(name: str, /, **inputs: Any) -> dict[str, Any]:
    return node(f"Distill3D_{name}", **inputs)


def nested(name: str, choice: str, values: dict[str, Any]) -> dict[str, Any]:
    """A DynamicCombo's inputs."""
    return {name: choice, **{f"{name}.{key}": value for key, value in values.items()}}


def loss(method: str = "SDS", model: Any = ("load", 0), **more: Any) -> dict[str, Any]:
    auto = dict.fromkeys(("t_min", "t_max", "weighting", "clip", "normalise"), "auto")
    inputs = {"model": list(model), "prompts": ["prompts", 0], "perp_neg": "off", **auto, **more}
    return ours("DistillLoss", **inputs, **nested("method", method, METHODS[method]))


def optimizer(iterations: int = 8, *, seed: int = 0, every: int = 100, extra: str = "", **more: Any) -> dict[str, Any]:
    values = {
        "base": "draft",
        "iterations": iterations,
        "batch": 2,
        "resolution": "auto",
        "image_size": 0,
        "checkpoint_every": every,
        "more": f"{COARSE}\n{extra}",
    }
    inputs = {"loss": ["loss", 0], "vae": ["load", 2], "seed": seed, "prefix": "distill3d/run/test", **more}
    return ours("NeRFOptimizer", **inputs, **nested("preset", "custom", values))


def export(field: Any = ("nerf", 0), *, texture: bool = False, **more: Any) -> dict[str, Any]:
    baked = {f"texture_{name}": value for name, value in TEXTURE.items()} | ({} if texture else {"texture_size": 0})
    settings = {"resolution": 40, "face_budget": 2000, "refine": 2, "fill_cavities": True, "component_share": 0.05}
    inputs = {"field": list(field), "prefix": "distill3d/mesh", "format": "glb", "level": 0.0, "normals": "faces"}
    settings |= {"smooth": 0, "scale": "world", "metres": 1.0, **baked}
    return ours("MeshExport", **{**inputs, **settings, **more})


def bench_2d(methods: str = "sds asd", iterations: int = 6, **more: Any) -> dict[str, Any]:
    """Distill 2D on the bundled prior."""
    run = {"batch": 1, "space": "latent", "view": "none", "rate": "auto", "start": 0.1, "image_size": 0}
    parts = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "prompt": "a red cube", "negative": ""}
    ways = {"methods": methods, "seed": 0, "iterations": iterations, "window": "published", "more": ""}
    return ours("Distill2D", **{**parts, **run, **ways, **more})


def base(prompt: str = "a red cube") -> dict[str, Any]:
    """Loader and prompts."""
    return {
        "load": ours("LoadSD", source=TINY),
        "prompts": ours("ViewPrompts", clip=["load", 1], prompt=prompt, negative="", sectors=SECTORS),
    }


def whole(iterations: int = 8, *, method: str = "SDS", prompt: str = "a red cube", **more: Any) -> dict[str, Any]:
    """From the loader to a file."""
    return {
        **base(prompt),
        "loss": loss(method),
        "nerf": optimizer(iterations, **more),
        "export": export(),
    }


def to_prompt(workflow: dict[str, Any]) -> dict[str, Any]:
    """The page's saved graph as the server takes it: widgets by place, wires by link."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for item in workflow["nodes"]:
        if item["type"] == "MarkdownNote":
            continue
        widgets = [i["name"] for i in item.get("inputs", []) if "widget" in i]
        held = list(item.get("widgets_values") or [])
        if "seed" in widgets:
            del held[widgets.index("seed") + 1]
        inputs = dict(zip(widgets, held, strict=True))
        inputs |= {i["name"]: links[i["link"]] for i in item.get("inputs", []) if i.get("link") is not None}
        prompt[str(item["id"])] = {"class_type": item["type"], "inputs": inputs}
    return prompt
