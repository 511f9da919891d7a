"""Lets the host start beside a CPU build of torch: the operators torchvision lacks there, and a stand-in torchaudio.

For tests only; the host runs it before it imports anything heavy.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
import types

import torch


def _declare(name: str) -> None:
    with contextlib.suppress(RuntimeError):  # a torchvision that fits this torch has declared it
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _stub(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    sys.modules[name] = module
    return module


if not torch.version.cuda:
    _declare("nms")
    _declare("qnms")
if importlib.util.find_spec("torchaudio") is None:
    root = _stub("torchaudio")
    root.__version__ = "0"
    root.transforms, root.functional = _stub("torchaudio.transforms"), _stub("torchaudio.functional")
