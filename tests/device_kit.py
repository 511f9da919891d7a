"""A second device without one: tensors that say they are elsewhere, which no operation mixes with the CPU's.

The numbers are computed on the CPU. What a GPU would refuse is refused: an operation between a tensor of the device and
one of the CPU with a dimension, ``numpy()`` of one, a generator of the other side, and float64, which Apple's lack.
``torch.device("lazy")`` stands for the GPU because torch knows the name, asks no driver for it and runs its backward
pass on the CPU's thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from distill3d.priors import load

DEVICE = torch.device("lazy")
_COPIES = ("_to_copy", "copy_")
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")


class There(Tensor):
    """A tensor of the device, around the CPU's that holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        made: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class Generator(torch.Generator):
    """A generator of either side that says which."""

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        made: Generator = super().__new__(cls)
        made.side = torch.device(device)
        return made

    side: torch.device

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.side


def _refuse_mixed(func: Any, args: Any, tensors: list[Tensor]) -> None:
    name = func.overloadpacket.__name__
    if name in _INDEXED:
        there, written = isinstance(args[0], There), [t for t in args[2:3] if isinstance(t, Tensor)]
        mixed = any(isinstance(t, There) != there and (t.ndim or not there) for t in written)
        mixed |= not there and any(isinstance(t, There) for t in tree_leaves(args[1]))  # the CPU's may index either
    else:
        shaped = [t for t in tensors if t.ndim]
        mixed = len({isinstance(t, There) for t in shaped or tensors}) > 1
        mixed |= bool(shaped) and not isinstance(shaped[0], There) and any(isinstance(t, There) for t in tensors)
    if mixed and name not in _COPIES:
        listed = [("device" if isinstance(t, There) else "cpu", tuple(t.shape)) for t in tensors]
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {listed}")


def _is_there(func: Any, args: Any, tensors: list[Tensor], device: Any) -> bool:
    if device is not None:
        return bool(device == DEVICE)
    if func.overloadpacket.__name__ in (*_COPIES, *_INDEXED):
        return isinstance(args[0], There)
    return any(isinstance(t, There) for t in tensors)


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
    device = kwargs.get("device")
    if device != DEVICE and not any(isinstance(t, There) for t in tensors):
        return func(*args, **kwargs)
    _refuse_mixed(func, args, tensors)
    inner = tree_map_only(There, lambda t: t.inner, (args, kwargs))
    if device == DEVICE:
        inner[1]["device"] = torch.device("cpu")
    if func.overloadpacket.__name__ == "_to_copy":
        out = inner[0][0].to(**{k: v for k, v in inner[1].items() if k in ("dtype", "memory_format")}, copy=True)
    else:
        out = func(*inner[0], **inner[1])
    if _is_there(func, args, tensors, device):
        if any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in tree_leaves(out)):
            raise TypeError(f"Cannot have float64 on the device: {func}")
        out = tree_map_only(Tensor, lambda t: t if isinstance(t, There) else There(t), out)
    if tensors and any(r.alias_info for r in func._schema.returns):
        return return_and_correct_aliasing(func, args, kwargs, out)
    return out


class _Device(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Refuses to draw for one side with the other's generator; makes tensors of numbers, which dispatch leaves out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if func is Tensor.tolist and isinstance(args[0], There):
            return args[0].inner.tolist()
        out = func(*args, **kwargs)
        drawn = kwargs.get("generator")
        if (
            isinstance(drawn, Generator)
            and isinstance(out, Tensor)
            and (drawn.side == DEVICE) != isinstance(out, There)
        ):
            raise RuntimeError(f"Expected a generator on the device of what is drawn: {func}")
        return out


@contextmanager
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``auto`` is the device inside the block."""
    autocast, enabled = torch.autocast, torch.is_autocast_enabled
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "autocast", lambda kind, *args, **named: autocast("cpu", *args, **named))
        patch.setattr(torch, "is_autocast_enabled", lambda kind="cpu": enabled("cpu"))
        patch.setattr(load, "resolve_device", lambda name="auto": DEVICE if name == "auto" else torch.device(name))
        with _Calls(), _Device():
            yield
