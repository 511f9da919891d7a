"""Models that the manager keeps in parts, as under --lowvram and --novram: the numbers stay the same.

The host refuses --cpu beside either flag, so here its manager is told, on the CPU, that there is a device without room.
What that leaves out is the copy between two devices.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import comfy_path
from inside import NEGATIVE, PROMPT, inside


@pytest.mark.parametrize("flag", ["--lowvram", "--novram"])
def test_the_host_itself_takes_no_memory_flag_beside_cpu(flag: str) -> None:
    command = [sys.executable, "-c", "import comfy.options; comfy.options.enable_args_parsing(); import comfy.cli_args"]
    ended = subprocess.run([*command, "--cpu", flag], cwd=comfy_path(), capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and f"argument {flag}: not allowed with argument --cpu" in ended.stderr


@pytest.mark.parametrize("mode", ["LOW_VRAM", "NO_VRAM"])
def test_a_model_kept_in_parts_gives_the_same_noise_latents_and_gradient(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    import comfy.model_management as manager
    import torch

    g = torch.Generator().manual_seed(0)
    x, images = torch.randn(2, 4, 16, 16, generator=g), torch.rand(2, 3, 64, 64, generator=g)

    def body(run: Any) -> Any:
        prior = run.prior
        noise = prior.predict_noise(x, torch.tensor([100, 700]), prior.embed([f"{PROMPT}, side view", NEGATIVE]))
        pixels = images.clone().requires_grad_()
        z = prior.encode(pixels)
        z.square().sum().backward()
        return noise, z.detach(), pixels.grad, bool(prior._model.model_lowvram)

    manager.unload_all_models()
    whole = inside(tiny, body, tmp_path)
    manager.unload_all_models()
    monkeypatch.setattr(manager, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(manager, "vram_state", manager.VRAMState[mode])
    monkeypatch.setattr(
        manager, "get_free_memory", lambda dev=None, torch_free_too=False: (2**20, 2**20) if torch_free_too else 2**20
    )
    parts = inside(tiny, body, tmp_path)
    monkeypatch.undo()
    manager.unload_all_models()
    assert (whole[3], parts[3]) == (False, True), "the manager did not keep the model in parts"
    for one, other in zip(whole[:3], parts[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    again = inside(tiny, body, tmp_path)
    assert not again[3] and torch.equal(again[0], whole[0])
