"""Pictures on their way to the host."""

from __future__ import annotations

import torch
from PIL.Image import Image
from torch import Tensor


def tensor_of(image: Image) -> Tensor:
    """A picture as the host's IMAGE, ``(1, H, W, 3)`` in 0..1."""
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, image.height, image.width, 3).float() / 255
