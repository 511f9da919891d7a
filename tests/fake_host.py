"""A stand-in for the parts of ComfyUI 0.33 that the nodes use, so that they run without it.

Only what has an observable effect is here: schemas, a model manager, a guider that holds inference mode as the executor
does, and a progress bar. ``test_nodes.py`` checks their signatures against those recorded from the real host.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Kept:
    """Keeps its arguments as attributes, so that tests can read a schema."""

    io_type = ""

    def __init__(self, id: Any = None, *positional: Any, **named: Any) -> None:
        self.id, self.positional = id, positional
        self.__dict__.update(named)


def kind(io_type: str) -> type:
    made = {part: type(part, (Kept,), {"io_type": io_type}) for part in ("Input", "Output")}
    return type(io_type, (), {**made, "io_type": io_type})


class Hidden(str, enum.Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


class FolderType(str, enum.Enum):
    output = "output"
    temp = "temp"


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_output_node: bool = False
    not_idempotent: bool = False
    has_intermediate_output: bool = False


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None, expand: Any = None, block_execution: Any = None) -> None:
        self.args, self.ui, self.expand = args, ui, expand


class ComfyNode:
    hidden = types.SimpleNamespace(unique_id="7", prompt=None, extra_pnginfo=None)


class DynamicCombo:
    class Option(Kept):
        def __init__(self, key: str, inputs: list[Any]) -> None:
            super().__init__(key)
            self.key, self.inputs = key, inputs

    Input = type("Input", (Kept,), {"io_type": "COMFY_DYNAMICCOMBO_V3"})


class MultiType:
    class Input(Kept):
        def __init__(self, id: str, types: list[Any], **named: Any) -> None:
            super().__init__(id, **named)
            self.io_type = ",".join(kind.io_type for kind in types)


class Shown:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args


class PreviewImage(Shown):
    def __init__(self, image: Tensor, animated: bool = False, cls: Any = None, **kwargs: Any) -> None:
        super().__init__(image)


class PreviewText(Shown):
    def __init__(self, value: str, **kwargs: Any) -> None:
        super().__init__(value)


@dataclass
class MESH:
    vertices: Tensor
    faces: Tensor
    uvs: Tensor | None = None
    vertex_colors: Tensor | None = None
    texture: Tensor | None = None
    metallic_roughness: Tensor | None = None
    vertex_counts: Tensor | None = None
    face_counts: Tensor | None = None
    unlit: bool = False
    normals: Tensor | None = None
    tangents: Tensor | None = None
    normal_map: Tensor | None = None
    occlusion_in_mr: bool = False


class File3D:
    def __init__(self, source: Any, file_format: str = "") -> None:
        self.source, self.format = source, file_format

    def get_source(self) -> Any:
        return self.source

    def get_data(self) -> Any:
        return self.source


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
        self.loaded += models


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


# ---- a model, a text encoder and a VAE that have known answers


class Base(nn.Module):
    """Dreams of one picture a text: x0 is that picture whatever comes in. ``parameterisation`` says in which space."""

    def __init__(self, dreams: dict[str, Tensor], sampling: Any) -> None:
        super().__init__()
        self.diffusion_model = nn.Linear(1, 1)
        for parameter in self.diffusion_model.requires_grad_(False).parameters():
            parameter.fill_(1)
        self.dreams, self.model_sampling = list(dreams.values()), sampling
        self.calls: list[tuple[int, int]] = []
        self.latent_format = types.SimpleNamespace(latent_channels=4, latent_dimensions=2)
        self.model_config = types.SimpleNamespace(unet_config={"in_channels": 4, "context_dim": 1})
        self.model_type = types.SimpleNamespace(name="EPS")
        self.concat_keys: tuple[str, ...] = ()

    def answer(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        wanted = torch.stack([self.dreams[int(row[0, 0])] for row in text])
        return wanted + 0 * x

    def get_dtype_inference(self) -> torch.dtype:
        return torch.float32

    def process_latent_in(self, z: Tensor) -> Tensor:
        return 2 * z

    def process_latent_out(self, z: Tensor) -> Tensor:
        return z / 2


class EPS:
    """``model_sampling`` of a discrete model: 100 levels."""

    sigmas = torch.linspace(-2, 3, 100).exp()


class CONST:
    """``model_sampling`` of a flow model."""

    sigmas = torch.linspace(0.01, 1, 100)


class Patcher:
    """A MODEL."""

    load_device = torch.device("cpu")

    def __init__(self, model: Base) -> None:
        self.model, self.model_options = model, {"transformer_options": {}}
        self.patches: dict[str, Any] = {}
        self.backup: dict[str, Any] = {}
        self.attachments: dict[str, Any] = {}
        self.wrappers: list[Any] = []

    def clone(self) -> Patcher:
        made = Patcher(self.model)
        made.attachments = dict(self.attachments)
        made.model_options = {
            **self.model_options,
            "transformer_options": dict(self.model_options["transformer_options"]),
        }
        return made

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Any) -> None:
        self.wrappers.append(wrapper)

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)

    def set_attachments(self, key: str, attachment: Any) -> None:
        self.attachments[key] = attachment

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def model_size(self) -> int:
        return 8

    def memory_required(self, input_shape: list[int]) -> int:
        return 1000 * input_shape[0] * input_shape[2] * input_shape[3]

    def set_model_output_block_patch(self, patch: Any) -> None:
        self.model_options["transformer_options"]["patches"] = {"output_block_patch": [patch]}


class Clip:
    """Knows as many texts as it is asked, each by its number."""

    def __init__(self, known: dict[str, int]) -> None:
        self.known = known

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str, show_pbar: bool = True) -> list[list[Any]]:
        number = self.known.setdefault(tokens, len(self.known)) % 2
        with torch.inference_mode():
            return [[torch.full((1, 1, 1), float(number)), {"pooled_output": torch.zeros(1, 1)}]]


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        mixing = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]])
        self.weight = nn.Parameter(mixing, requires_grad=False)
        self.decoder = nn.Linear(3, 3)
        for parameter in self.decoder.requires_grad_(False).parameters():
            parameter.fill_(1)

    def encode(self, pixels: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(torch.einsum("kc,bchw->bkhw", self.weight, pixels), 2)


class Vae:
    """A VAE whose weights are inference tensors, as the host's are."""

    latent_channels, latent_dim, downscale_ratio, vae_dtype = 4, 2, 2, torch.float32

    def __init__(self) -> None:
        with torch.inference_mode():
            self.first_stage_model = _Encoder()
        self.patcher = object()

    def process_input(self, image: Tensor) -> Tensor:
        return image * 2 - 1

    def model_size(self) -> int:
        return 1

    def decode(self, z: Tensor) -> Tensor:
        return z.movedim(1, -1)[..., :3]
