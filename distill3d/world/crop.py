"""Pictures cut to what they show, so that its size and place do not matter when they are compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CROP = 32
MARGIN = 1.06


def cut_out(pictures: Tensor, mask: Tensor) -> Tensor:
    """``(N, C, CROP, CROP)`` of ``pictures`` ``(N, C, S, S)``: a square around ``mask`` ``(N, S, S)``, 0 outside it.

    Rows and columns with fewer than two pixels of the mask do not count; an empty mask keeps the whole picture.
    """
    size = mask.shape[-1]
    spans = []
    for axis in (1, 2):
        used = mask.sum(axis) >= 2
        first = used.float().argmax(1)
        last = size - 1 - used.flip(1).float().argmax(1)
        empty = ~used.any(1)
        spans.append((torch.where(empty, 0, first).float(), torch.where(empty, size - 1, last).float()))
    (left, right), (top, bottom) = spans
    side = torch.maximum(right - left, bottom - top) + 1
    scale = MARGIN * side / size
    shift_x, shift_y = ((low + high + 1) / size - 1 for low, high in spans)
    nothing = torch.zeros_like(scale)
    theta = torch.stack([scale, nothing, shift_x, nothing, scale, shift_y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(mask), 1, CROP, CROP], align_corners=False)
    return F.grid_sample(pictures * mask[:, None], grid, align_corners=False)
