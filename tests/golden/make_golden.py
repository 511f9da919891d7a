"""Golden numbers from the official implementations, with the bundled prior's UNet, fixed noise and timesteps.
The numbers kept here are of the plain world's prior, which was the bundled one then.

    python tests/golden/make_golden.py --threestudio CHECKOUT --scaledreamer CHECKOUT --csd CHECKOUT

Each checkout is the repository's own: github.com/threestudio-project/threestudio (these numbers: 28d9d80),
theEricMa/ScaleDreamer (23f433f) and CVMI-Lab/Classifier-Score-Distillation (5c65ca7). Nothing of them is kept here:
their guidance classes are imported, what they import beyond torch and diffusers is stubbed, their ``configure`` is left
out and the UNet is handed in. What comes out is ``official.safetensors``: every row the UNet was asked, its answers,
and the gradient, computed in float64 and stored in float32. ``--check`` also runs our guidance on the same UNet and
prints the relative difference.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.machinery
import importlib.util
import json
import sys
import types
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from golden_cases import CASES, NEGATIVE, PROMPT, Case, run_ours
from safetensors.torch import save_file
from torch import Tensor

from distill3d.priors.noise_schedule import alphas_cumprod

HERE = Path(__file__).parent
VIEWS = ("side", "front", "back", "overhead")


class _Any:
    def __class_getitem__(cls, _: Any) -> Any:
        return Any


class _Stub(MagicMock):
    """An imported thing that is never used."""

    __path__: typing.ClassVar[list[str]] = []


class _Finder:
    """Packages of theirs that are not installed here become stubs."""

    names = ("igl", "cv2", "controlnet_aux", "pytorch_lightning", "tomesd", "tqdm", "omegaconf", "tinycudann")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> Any:
        return _Stub(name=spec.name)

    def exec_module(self, module: Any) -> None:
        pass


def _base_object() -> type:
    @dataclasses.dataclass
    class Config:
        pass

    return type("BaseObject", (), {"Config": Config})


def official(checkout: Path, module: str) -> Any:
    """A module of a threestudio checkout, without the package's own imports."""
    for name in [n for n in sys.modules if n.split(".")[0] == "threestudio"]:
        del sys.modules[name]
    root = types.ModuleType("threestudio")
    root.__path__ = [str(checkout / "threestudio")]
    root.register = lambda _: lambda cls: cls  # type: ignore[attr-defined]
    root.info = root.warn = lambda *_: None  # type: ignore[attr-defined]
    sys.modules["threestudio"] = root
    for package in ("models", "models.guidance", "models.prompt_processors", "utils"):
        made = types.ModuleType(f"threestudio.{package}")
        made.__path__ = [str(checkout / "threestudio" / package.replace(".", "/"))]
        sys.modules[f"threestudio.{package}"] = made
    kinds = types.ModuleType("threestudio.utils.typing")
    for name in ("Any", "Callable", "Dict", "List", "Optional", "Tuple", "Union", "Iterable", "NamedTuple"):
        setattr(kinds, name, getattr(typing, name))
    for name in ("Float", "Int", "Integer", "Bool", "Num", "Shaped", "Literal", "DictConfig"):
        setattr(kinds, name, _Any)
    kinds.Tensor = Tensor  # type: ignore[attr-defined]
    sys.modules["threestudio.utils.typing"] = kinds
    base = types.ModuleType("threestudio.utils.base")
    base.BaseObject = _base_object()  # type: ignore[attr-defined]
    sys.modules["threestudio.utils.base"] = base
    sys.modules["threestudio.utils.misc"] = _Stub(name="misc")
    return importlib.import_module(f"threestudio.{module}")


class Recorder:
    """The UNet as the guidance classes call it, remembering rows and answers."""

    def __init__(self, unet: Any) -> None:
        self.unet, self.rows = unet, []
        self.class_embedding = None

    def __call__(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Any:
        with torch.no_grad():
            out = self.unet(x, t, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
        self.rows.append((x.clone(), t.clone(), encoder_hidden_states.clone(), out.clone()))
        return SimpleNamespace(sample=out)


def _prompt_utils(processors: Any, table: dict[str, Tensor], case: Case) -> Any:
    """Their prompt processor's output for our embeddings, with its default thresholds."""
    turned = processors.shift_azimuth_deg
    conditions = (
        lambda e, a, d: torch.ones_like(e, dtype=torch.bool),
        lambda e, a, d: (turned(a) > -45) & (turned(a) < 45),
        lambda e, a, d: (turned(a) > 135) | (turned(a) < -135),
        lambda e, a, d: e > 60,
    )
    directions = [
        processors.DirectionConfig(n, lambda s: s, lambda s: s, c) for n, c in zip(VIEWS, conditions, strict=True)
    ]
    negative = table[case.negative][None]
    fields = {
        "text_embeddings": table[PROMPT][None], "uncond_text_embeddings": negative,
        "null_text_embeddings": table[""][None], "uncond_text_embeddings_vd": negative.expand(4, -1, -1),
        "text_embeddings_vd": torch.stack([table[f"{PROMPT}, {view} view"] for view in VIEWS]),
        "directions": directions, "direction2idx": {n: i for i, n in enumerate(VIEWS)}, "use_perp_neg": case.perp_neg,
        "perp_neg_f_sb": (1, 0.5, -0.606), "perp_neg_f_fsb": (1, 0.5, 0.967), "prompt": PROMPT, "prompts_vd": [],
        "perp_neg_f_fs": (4, 0.5, -2.426), "perp_neg_f_sf": (4, 0.5, -2.426),
    }  # fmt: skip
    known = {f.name for f in dataclasses.fields(processors.PromptProcessorOutput)}
    return processors.PromptProcessorOutput(**{k: v for k, v in fields.items() if k in known})


def _guidance(cls: Any, recorder: Recorder, **config: Any) -> Any:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    made = cls.__new__(cls)
    values = {f.name: f.default for f in dataclasses.fields(cls.Config) if f.default is not dataclasses.MISSING}
    made.cfg = SimpleNamespace(**{**values, **config})
    scheduler.alphas_cumprod = alphas_cumprod()
    made.unet, made.scheduler, made.alphas = recorder, scheduler, scheduler.alphas_cumprod
    made.weights_dtype, made.device, made.num_train_timesteps = torch.float64, "cpu", 1000
    made.grad_clip_val, made.use_controlnet = None, False
    made.min_step, made.max_step = 500, 980
    made.decode_latents = lambda latents: latents
    return made


def run_official(case: Case, checkouts: dict[str, Path], unet: Any, table: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows and answers of the UNet, and the gradient, of one case."""
    at = "models.guidance.stable_diffusion"
    modules = {
        "sds": ("threestudio", f"{at}_guidance", "StableDiffusionGuidance"),
        "asd": ("scaledreamer", f"{at}_asd_guidance", "SDTimestepShiftedScoreDistillationGuidance"),
        "csd": ("csd", f"{at}_triple_guidance", "StableDiffusionSDSGuidance"),
    }
    repository, module, name = modules[case.method]
    code = official(checkouts[repository], module)
    recorder = Recorder(unet)
    guidance = _guidance(getattr(code, name), recorder, **case.official)
    prompt_utils = _prompt_utils(sys.modules["threestudio.models.prompt_processors.base"], table, case)
    latents, eps, t, u = case.state(torch.float64)
    views = (torch.tensor(case.elevation[: case.batch]), torch.tensor(case.azimuth), torch.ones(case.batch))
    with patch.object(torch, "randn_like", lambda _: eps.clone()), patch.object(torch, "rand", lambda *_, **__: u), \
            patch.object(torch, "randint", lambda *_, **__: t.clone()):  # fmt: skip
        if case.method == "sds":
            gradient = guidance.compute_grad_sds(latents, latents, t, prompt_utils, *views)[0]
        else:
            guidance.use_perp_neg = case.perp_neg
            for key in ("cond_scale", "uncond_scale", "null_scale", "noise_scale", "perpneg_scale"):
                setattr(guidance, key, getattr(guidance.cfg, key, 0.0))
            leaf = latents.clone().requires_grad_()
            guidance.get_latents = lambda *_, **__: leaf
            out = guidance(torch.zeros(case.batch, 8, 8, 3), prompt_utils, *views)
            next(v for k, v in out.items() if k.startswith("loss")).backward()
            gradient = leaf.grad * case.batch
    x, at, cond, answer = (torch.cat([row[i] for row in recorder.rows]) for i in range(4))
    return {"x": x, "t": at.long(), "cond": cond, "answer": answer, "gradient": gradient}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("threestudio", "scaledreamer", "csd"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args()
    sys.meta_path.append(_Finder())  # type: ignore[arg-type]
    from distill3d.priors.load import load_prior

    prior = load_prior(device="cpu", dtype="fp32")
    texts = [PROMPT, "", NEGATIVE, *(f"{PROMPT}, {view} view" for view in VIEWS)]
    embedded = prior.embed(texts)[:, :6].double()
    unet = prior.unet.double()
    table = dict(zip(texts, embedded, strict=True))
    tensors = {"embeddings": embedded.float()}
    import diffusers.loaders
    import diffusers.models.attention_processor

    for module, name in (
        (diffusers.loaders, "AttnProcsLayers"),
        (diffusers.models.attention_processor, "LoRAAttnProcessor"),
    ):
        if not hasattr(module, name):
            setattr(module, name, None)
    for case in CASES:
        checkouts = {name: getattr(flags, name) for name in ("threestudio", "scaledreamer", "csd")}
        found = run_official(case, checkouts, unet, table)
        if flags.check:
            ours = run_ours(case, lambda x, t, c: unet(x, t, c, return_dict=False)[0].detach(), table, torch.float64)
            difference = (ours.gradient - found["gradient"]).norm() / found["gradient"].norm()
            rows = f"{ours.evaluations} rows for their {len(found['x'])}"
            sys.stdout.write(f"{case.name:<28} relative difference {float(difference):.1e}, {rows}\n")
        tensors |= {f"{case.name}.{key}": value if key == "t" else value.float() for key, value in found.items()}
    save_file(tensors, HERE / "official.safetensors", metadata={"texts": json.dumps(texts)})


if __name__ == "__main__":
    main()
