"""A model, a text encoder and a VAE of the stand-in host that have known answers."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn


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
        return wanted.to(x) + 0 * x

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

    def get_free_memory(self, device: torch.device) -> int:
        return 2**33

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
