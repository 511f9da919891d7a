"""What a user puts on a MODEL reaches the object: LoRA, FreeU, ControlNet, noise levels of every kind."""

from __future__ import annotations

import json
from typing import Any

import graphs
import pytest
from graphs import node, ours

STEPS = 3


def run(
    server: Any, model: tuple[str, int] = ("load", 0), extra: dict[str, Any] | None = None, more: str = "", **loss: Any
) -> Any:
    """Three steps with ``model`` in Distill Loss and ``more`` in NeRF Optimizer; the report."""
    graph = graphs.base() | (extra or {})
    graph |= {
        "loss": graphs.loss(model=model, **loss),
        "nerf": graphs.optimizer(STEPS, extra=more),
        "text": node("PreviewAny", source=["nerf", 2]),
    }
    seen = server.run(graph)
    assert seen.end == "execution_success", (seen.answer, seen.of("execution_error"))
    return json.loads("".join(seen.outputs["text"]["text"]))


@pytest.fixture(scope="module")
def plain(server: Any) -> Any:
    return run(server)


def write_lora(server: Any) -> str:
    """A random LoRA of one layer of the bundled prior, where the host looks for it."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    g = torch.Generator().manual_seed(0)
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
    weights = {"lora_down.weight": (4, graphs.TEXT_WIDTH), "lora_up.weight": (192, 4)}
    folder = server.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{name}.{k}": torch.randn(shape, generator=g) for k, shape in weights.items()}, folder / "t.safetensors"
    )
    return "t.safetensors"


def test_a_lora_changes_the_run_by_its_strength_and_not_the_model(server: Any, plain: Any) -> None:
    name = write_lora(server)

    def with_lora(strength: float) -> Any:
        lora = node("LoraLoaderModelOnly", model=["load", 0], lora_name=name, strength_model=strength)
        return run(server, ("lora", 0), {"lora": lora})

    one, two, none = with_lora(1.0), with_lora(2.0), with_lora(0.0)
    assert none["loss"] == plain["loss"]
    assert len({one["loss"], two["loss"], plain["loss"]}) == 3
    assert one["prior"]["lora_patches"] == 1 and plain["prior"]["lora_patches"] == 0
    assert run(server)["loss"] == plain["loss"]


def test_a_lora_that_comes_as_a_hook_acts_by_its_strength(server: Any, plain: Any) -> None:
    name = write_lora(server)

    def hooked(strength: float) -> Any:
        extra = {
            "hook": node("CreateHookLoraModelOnly", lora_name=name, strength_model=strength),
            "with": node(
                "ConditioningSetProperties",
                cond_NEW=["prompts", 1],
                strength=1.0,
                set_cond_area="default",
                hooks=["hook", 0],
            ),
        }
        return run(server, extra=extra, extras=["with", 0])

    one, two, none = hooked(1.0), hooked(2.0), hooked(1e-6)
    assert one["settings"]["window"]["shared"], "a hook may change with the timestep, so the views share one"
    assert len({one["loss"], two["loss"], none["loss"]}) == 3
    assert len({found["prior"]["extras"] for found in (one, two, none, plain)}) == 4
    assert hooked(1.0)["prior"]["extras"] == one["prior"]["extras"], "a run of the same graph can be resumed"
    assert run(server)["loss"] == plain["loss"]


def test_the_hosts_own_freeu_is_honoured(server: Any, plain: Any) -> None:
    def patched(**factors: float) -> float:
        patch = node("FreeU_V2", model=["load", 0], **factors)
        return float(run(server, ("freeu", 0), {"freeu": patch})["loss"])

    assert patched(b1=1.0, b2=1.0, s1=1.0, s2=1.0) == pytest.approx(plain["loss"], rel=1e-3)
    assert patched(b1=1.4, b2=1.4, s1=0.5, s2=0.5) != pytest.approx(plain["loss"], rel=1e-3)


def test_freeu_of_ones_changes_nothing_and_other_factors_do(server: Any, plain: Any) -> None:
    def patched(**factors: float) -> float:
        patch = ours("FreeUPatch", model=["load", 0], version="v2", **factors)
        return float(run(server, ("freeu", 0), {"freeu": patch})["loss"])

    assert patched(b1=1.0, b2=1.0, s1=1.0, s2=1.0) == plain["loss"]
    assert patched(b1=1.4, b2=1.4, s1=0.5, s2=0.5) != plain["loss"]


def test_a_controlnet_acts_by_its_strength(server: Any, plain: Any) -> None:
    def controlled(strength: float, colour: int = 0xFF0000) -> Any:
        extra = {
            "net": node("TestControlNet", model=["load", 0]),
            "hint": node("EmptyImage", width=64, height=64, batch_size=1, color=colour),
            "apply": node(
                "ControlNetApply",
                conditioning=["prompts", 1],
                control_net=["net", 0],
                image=["hint", 0],
                strength=strength,
            ),
        }
        return run(server, extra=extra, extras=["apply", 0])

    red, blue, weak = controlled(1.0), controlled(1.0, 0x0000FF), controlled(0.01)
    assert red["settings"]["window"]["shared"] and not plain["settings"]["window"]["shared"]
    assert len({red["loss"], blue["loss"], weak["loss"]}) == 3
    assert len({found["prior"]["extras"] for found in (red, blue, weak, plain)}) == 4
    assert controlled(1.0)["prior"]["extras"] == red["prior"]["extras"], "a run of the same graph can be resumed"
    assert run(server)["loss"] == plain["loss"]


SAMPLINGS = {
    "eps": ("ModelSamplingDiscrete", {"sampling": "eps", "zsnr": False}),
    "v": ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}),
    "v to pure noise": ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}),
    "edm": ("ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 120.0, "sigma_min": 0.002}),
    "v edm": ("ModelSamplingContinuousEDM", {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03}),
    "flow": ("ModelSamplingSD3", {"shift": 3.0}),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_parameterisation_trains(server: Any, plain: Any, name: str) -> None:
    """The bundled prior was trained on eps: read as anything else it is another model, and still gives finite steps."""
    kind, inputs = SAMPLINGS[name]
    report = run(server, ("sampling", 0), {"sampling": node(kind, model=["load", 0], **inputs)})
    assert (report["prior"]["sampling"] == plain["prior"]["sampling"]) == (name == "eps")
    assert report["iterations"]["done"] == STEPS and report["iterations"]["skipped"] == 0
    assert (report["loss"] == plain["loss"]) == (name == "eps")


def test_tint_has_the_host_s_vae_decode(server: Any, plain: Any) -> None:
    """That the picture is the right one, ``test_prior`` says."""
    assert "decode" not in plain["seconds"]
    assert run(server, more="losses.tint = 50", t_max="0.3")["seconds"]["decode"] > 0
