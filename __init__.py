"""The pack's door for ComfyUI. Imports nothing here, so that it loads cleanly anywhere, also without ComfyUI."""

from __future__ import annotations

WEB_DIRECTORY = "./js"
NEEDS = (0, 33)


def check_host() -> None:
    """Raises ``RuntimeError`` with one clear sentence on a host older than the nodes need."""
    try:
        from comfyui_version import __version__ as found
    except ImportError:
        found = "an unknown version"
    parts = tuple(int(part) if part.isdigit() else 0 for part in found.split("."))
    if parts < NEEDS:
        needed = ".".join(map(str, NEEDS))
        raise RuntimeError(
            f"Distill3D needs ComfyUI {needed} or newer and this is {found}: update ComfyUI and restart it"
        )


async def comfy_entrypoint() -> object:
    """The host's hook: our extension."""
    check_host()
    from .nodes.extension import Distill3DExtension

    return Distill3DExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
