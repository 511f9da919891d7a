"""The real host, when ``COMFYUI_PATH`` names a checkout of ComfyUI 0.33 and this Python can run it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def comfy_path() -> Path:
    """The checkout, or a skip that says what is missing."""
    place = os.environ.get("COMFYUI_PATH")
    if not place:
        pytest.skip("COMFYUI_PATH is not set: the tests on a real ComfyUI server are left out")
    if not (Path(place) / "main.py").is_file():
        pytest.skip(f"COMFYUI_PATH={place} holds no main.py: it is no ComfyUI checkout")
    pytest.importorskip("aiohttp", reason="this Python has none of ComfyUI's requirements")
    return Path(place)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A running server, shared by the tests of a session."""
    from client import Server

    running = Server(comfy_path(), tmp_path_factory.mktemp("host"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def host() -> ModuleType:
    """The pack beside the host in this process."""
    from inside import pack

    return pack(comfy_path())


@pytest.fixture(scope="session")
def tiny(host: ModuleType) -> SimpleNamespace:
    """MODEL, CLIP and VAE of the bundled prior, made in inference mode, as the executor makes them."""
    import torch
    from inside import get

    with torch.inference_mode():
        model, clip, vae = get("nodes.host.tiny").load_tiny(get("distill3d.priors.load").bundled_prior_path())
    return SimpleNamespace(model=model, clip=clip, vae=vae)


@pytest.fixture(scope="session")
def theirs(host: ModuleType) -> object:
    """The library's own prior on the same weights."""
    from inside import get

    return get("distill3d.priors.load").load_prior(device="cpu", dtype="fp32")
