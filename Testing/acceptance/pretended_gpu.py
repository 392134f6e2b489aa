"""A GPU that is not there: its tensors say that they lie on it, and the CPU computes.

It refuses what a real one would refuse: tensors of two devices in one operation, and, like Apple's,
double precision. Which operations it was asked for can be compared with torch's own table of those
that CUDA and Apple's GPUs have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torchgen
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torchgen.gen import parse_native_yaml
from torchgen.model import DispatchKey

NAME = "pretended:0"
CPU = torch.device("cpu")
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


@cache
def _installed() -> torch.device:
    """The device, which torch learns of once in a process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME.partition(":")[0])
    return torch.device(NAME)


class _There(torch.Tensor):
    """A tensor on the pretended GPU, whose values are `here`."""

    @staticmethod
    def __new__(cls, here: torch.Tensor):
        place = here.stride(), here.storage_offset()
        strides = dict(zip(("strides", "storage_offset"), place, strict=True))
        kind = {"dtype": here.dtype, "device": _installed()}
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, **strides, **kind)

    def __init__(self, here: torch.Tensor):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of pretended_gpu()")


@contextmanager
def pretended_gpu() -> Iterator[set[str]]:
    """Within it tensors can be sent to NAME; the set names the operations that were run there."""
    with _Device() as device, _PythonValues():
        yield device.asked


class _Device(TorchDispatchMode):
    """Sends every operation to where its tensors are."""

    def __init__(self):
        super().__init__()
        self.device, self.asked = _installed(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = list(_leaves([args, list(kwargs.values())]))
        there = {id(x.here): x for x in given if type(x) is _There}
        wanted = next((x for x in given if type(x) is torch.device), CPU if not there else None)
        if not there and wanted != self.device:
            return function(*args, **kwargs)
        if _made_of_others(function):
            with self:
                return function.decompose(*args, **kwargs)
        here = [x for x in given if isinstance(x, torch.Tensor) and type(x) is not _There]
        if there and function not in _COPIES and any(x.dim() for x in here):
            raise RuntimeError(f"{function} of tensors on {self.device} and on the CPU")
        self.asked.add(str(function).removeprefix("aten.").removesuffix(".default"))
        found = function(*_mapped(_here, args), **{k: _mapped(_here, v) for k, v in kwargs.items()})
        if function is torch.ops.aten.copy_.default:
            return args[0]

        def sent(value):
            if not isinstance(value, torch.Tensor):
                return value
            if value.dtype == torch.float64:
                raise TypeError(f"{function} makes double precision")
            return there[id(value)] if id(value) in there else _There(value)

        return found if wanted == CPU else _mapped(sent, found)


class _PythonValues(TorchFunctionMode):
    """Lists and numbers that become tensors do so on the CPU first: torch hides it otherwise."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            tensor, index, *value = args
            index = index if isinstance(index, tuple) else (index,)
            args = (tensor, tuple(_listed(i, tensor.device) for i in index), *value)
        elif function is torch.Tensor.new_tensor:
            return torch.tensor(args[1], **kwargs).to(args[0])
        elif function is torch.Tensor.tolist:
            return _here(args[0]).tolist()
        elif function is torch.Tensor.numpy and isinstance(args[0], _There):
            raise TypeError(f"numpy cannot read from {NAME}")
        elif function in (torch.tensor, torch.as_tensor) and not torch.is_tensor(args[0]):
            device = kwargs.pop("device", None)
            found = function(*args, **kwargs)
            return found if device is None else found.to(device)
        return function(*args, **kwargs)


def lacking(asked: set[str], key: str) -> list[str]:
    """Those operations that torch's table gives no kernel for a device: CUDA, MPS."""
    functions, index = _table()
    found = []
    for name in sorted(asked):
        function = functions[name]
        if function.structured_delegate is not None:
            function = functions[str(function.structured_delegate)]
        if not (
            function.has_composite_kernel or index[DispatchKey.parse(key)].has_kernel(function)
        ):
            found.append(name)
    return found


@cache
def _table():
    folder = Path(torchgen.__file__).parent / "packaged/ATen/native"
    table = parse_native_yaml(str(folder / "native_functions.yaml"), str(folder / "tags.yaml"))
    return {str(f.func.name): f for f in table.native_functions}, table.backend_indices


@cache
def _made_of_others(function) -> bool:
    key = "CompositeImplicitAutograd"
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), key)


def _leaves(value):
    """What lies in lists and tuples within each other."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _mapped(change, value):
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(change, part) for part in value)
    return change(value)


def _here(value):
    if isinstance(value, torch.device):
        return CPU
    return value.here if isinstance(value, _There) else value


def _listed(index, device):
    if isinstance(index, (list, tuple, np.ndarray)):
        return torch.as_tensor(np.asarray(index, dtype=None if len(index) else int)).to(device)
    return index
