"""A stand-in for the parts of ComfyUI 0.33 that the nodes use, so that they run without it.

Only what has an observable effect is here: schemas (``fake_api``), models with known answers (``fake_models``), a model
manager, a guider that holds inference mode as the executor does, and a progress bar. ``test_nodes.py`` checks their
signatures against those recorded from the real host.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from fake_api import (
    MESH,
    ComfyNode,
    DynamicCombo,
    File3D,
    FolderType,
    Hidden,
    MultiType,
    NodeOutput,
    PreviewImage,
    PreviewText,
    Schema,
    Shown,
    kind,
)
from fake_models import CONST, EPS, Base, Clip, Patcher, Vae
from torch import Tensor

__all__ = ["CONST", "EPS", "MESH", "Base", "Clip", "File3D", "NodeOutput", "Patcher", "Schema", "Vae", "installed"]


class InterruptProcessingException(Exception):
    pass


class Manager(types.ModuleType):
    """``comfy.model_management``; ``interrupt`` is what the Cancel button sets."""

    InterruptProcessingException = InterruptProcessingException
    vram_state = types.SimpleNamespace(name="DISABLED")

    def __init__(self) -> None:
        super().__init__("comfy.model_management")
        self.interrupt = False
        self.loaded: list[Any] = []

    def throw_exception_if_processing_interrupted(self) -> None:
        if self.interrupt:
            self.interrupt = False
            raise InterruptProcessingException

    def interrupt_current_processing(self, value: bool = True) -> None:
        self.interrupt = value

    def get_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_torch_device_name(self, device: torch.device) -> str:
        return str(device)

    def is_device_cpu(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def get_free_memory(self, dev: Any = None, torch_free_too: bool = False) -> int:
        return 2**33

    def load_models_gpu(
        self,
        models: Any,
        memory_required: int = 0,
        force_patch_weights: bool = False,
        minimum_memory_required: int | None = None,
        force_full_load: bool = False,
    ) -> None:
        self.loaded += [model for model in models if not any(model is held for held in self.loaded)]

    def loaded_models(self, only_currently_used: bool = False) -> list[Any]:
        return list(self.loaded)

    def reset_cast_buffers(self) -> None: ...


class Sampler:
    def sample(self) -> None: ...


class CFGGuider:
    """Runs the sampler inside inference mode, as the executor's thread does."""

    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher, self.conds = model_patcher, {}

    def inner_set_conds(self, conds: dict[str, Any]) -> None:
        self.conds = {
            key: [{**c[1], "model_conds": {"c_crossattn": Cond(c[0])}} for c in cond] for key, cond in conds.items()
        }

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Any = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        self.inner_model = self.model_patcher.model
        options = {"model_options": self.model_patcher.model_options}
        with torch.inference_mode():
            out: Tensor = sampler.sample(self, sigmas, options, callback, noise, latent_image, None, disable_pbar)
        del self.inner_model
        return out


class Cond:
    def __init__(self, cond: Tensor) -> None:
        self.cond = cond

    def _copy_with(self, cond: Tensor) -> Cond:
        return Cond(cond)

    def can_concat(self, other: Cond) -> bool:
        return self.cond.shape[::2] == other.cond.shape[::2]


def calc_cond_batch(
    model: Any, conds: list[list[dict[str, Any]]], x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    """x0 of each conditioning: the fake model's own answer, with every patch that it was given."""
    model.calls.append((len(conds), len(x_in)))
    answers = []
    for (cond,) in conds:
        text = cond["model_conds"]["c_crossattn"].cond.expand(len(x_in), -1, -1)
        answers.append(model.answer(x_in, timestep, text))
    return answers


def cfg_function(
    model: Any,
    cond_pred: Tensor,
    uncond_pred: Tensor,
    cond_scale: float,
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any] | None = None,
    cond: Any = None,
    uncond: Any = None,
) -> Tensor:
    result = uncond_pred + (cond_pred - uncond_pred) * cond_scale
    for function in (model_options or {}).get("sampler_post_cfg_function", []):
        result = function({"denoised": result, "cond_denoised": cond_pred, "uncond_denoised": uncond_pred})
    return result


class ProgressBar:
    seen: ClassVar[list[tuple[float, Any]]] = []

    def __init__(self, total: int, node_id: str | None = None) -> None:
        self.total = total

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        ProgressBar.seen.append((value, preview))


class Server:
    """``PromptServer.instance``."""

    client_id = "client"

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.texts: list[str] = []
        self.routes = types.SimpleNamespace(post=self._route, get=self._route)

    def _route(self, path: str) -> Any:
        return lambda function: function

    def send_sync(self, event: str, data: Any, sid: Any = None) -> None:
        self.sent.append((event, data))

    def send_progress_text(self, text: str, node_id: str, sid: Any = None) -> None:
        self.texts.append(text)


def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    folder = (Path(output_dir) / filename_prefix).resolve().parent
    if Path(output_dir).resolve() not in (folder, *folder.parents):
        raise ValueError("Saving image outside the output folder is not allowed.")
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(filename_prefix).name
    used = [int(p.name[len(name) + 1 :].split(".")[0].split("_")[0]) for p in folder.glob(f"{name}_[0-9]*_*")]
    return str(folder), name, max(used, default=0) + 1, str(Path(filename_prefix).parent), filename_prefix


def modules(root: Path) -> dict[str, types.ModuleType]:
    """The fake host's modules, with its folders below ``root``."""

    def module(name: str, **values: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(values)
        return made

    names = [
        "Model",
        "Clip",
        "Vae",
        "Image",
        "Conditioning",
        "Latent",
        "Mesh",
        "File3DAny",
        "File3DGLB",
        "File3DGLTF",
        "File3DOBJ",
        "File3DPLY",
        "File3DSTL",
        "String",
        "Int",
        "Float",
        "Boolean",
        "Combo",
        "Curve",
    ]
    io = module("io", **{name: kind(name.upper()) for name in names})
    io.__dict__.update(
        ComfyNode=ComfyNode, Schema=Schema, NodeOutput=NodeOutput, Hidden=Hidden, FolderType=FolderType,
        DynamicCombo=DynamicCombo, MultiType=MultiType, Custom=kind,
        ControlAfterGenerate=types.SimpleNamespace(fixed="fixed"),
    )  # fmt: skip
    ui = module("ui", PreviewImage=PreviewImage, PreviewText=PreviewText)
    latest = module(
        "comfy_api.latest", io=io, ui=ui, Types=types.SimpleNamespace(MESH=MESH, File3D=File3D),
        ComfyExtension=type("ComfyExtension", (), {}),
    )  # fmt: skip
    saved = type("SavedResult", (dict,), {"__init__": lambda s, f, d, t: dict.__init__(s, filename=f, subfolder=d)})
    place, server, manager = {"root": root}, Server(), Manager()
    wrappers = types.SimpleNamespace(PREPARE_SAMPLING="prepare_sampling")
    empty = ["comfy", "comfy_api", "comfy.sd", "comfy.sd1_clip", "comfy.supported_models", "comfy.diffusers_load"]
    empty += ["comfy.supported_models_base", "comfy.model_base", "comfy.model_patcher"]
    found = {name: module(name) for name in empty}
    found["comfy.sd1_clip"].__dict__.update(
        SDTokenizer=object, SDClipModel=object, SD1Tokenizer=object, SD1ClipModel=object
    )
    found |= {
        "comfy_api.latest": latest,
        "comfy_api.latest._ui": module("_ui", SavedResult=saved, SavedImages=Shown),
        "comfy.samplers": module(
            "comfy.samplers", Sampler=Sampler, CFGGuider=CFGGuider, calc_cond_batch=calc_cond_batch,
            cfg_function=cfg_function,
        ),
        "comfy.model_management": manager,
        "comfy.patcher_extension": module("comfy.patcher_extension", WrappersMP=wrappers),
        "comfy.utils": module("comfy.utils", ProgressBar=ProgressBar),
        "comfy.cli_args": module("comfy.cli_args", args=types.SimpleNamespace(disable_metadata=False)),
        "comfyui_version": module("comfyui_version", __version__="0.33.0"),
        "server": module("server", PromptServer=types.SimpleNamespace(instance=server)),
        "folder_paths": module(
            "folder_paths",
            place=place, get_output_directory=lambda: str(place["root"] / "output"),
            get_temp_directory=lambda: str(place["root"] / "temp"),
            get_filename_list=lambda name: [],
            get_folder_paths=lambda name: [str(place["root"] / name)],
            get_full_path=lambda name, file: None,
            get_save_image_path=get_save_image_path,
        ),
    }  # fmt: skip
    for name in [n for n in found if n.startswith("comfy.")]:
        setattr(found["comfy"], name.split(".")[1], found[name])
    return found


@contextmanager
def installed(root: Path) -> Iterator[types.ModuleType]:
    """The pack imported under the name ``pack``, on the fake host; both are gone afterwards."""
    import importlib.util

    (root / "output").mkdir(parents=True, exist_ok=True)
    fake = modules(root)
    before = dict(sys.modules)
    sys.modules.update(fake)
    place = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "pack", place / "__init__.py", submodule_search_locations=[str(place)]
    )
    assert spec and spec.loader
    pack = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = pack
    try:
        spec.loader.exec_module(pack)
        yield pack
    finally:
        for name in [n for n in sys.modules if n == "pack" or n.startswith("pack.") or n in fake]:
            if name in before:
                sys.modules[name] = before[name]
            else:
                del sys.modules[name]
