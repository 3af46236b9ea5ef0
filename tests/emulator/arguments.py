"""From a launcher's arguments to what a kernel finds: its buffer of parameters, tensor maps, and memory."""

import struct

import numpy as np
import torch
from triton.backends.nvidia.driver import TMA_DTYPE_DEVICE_TO_HOST

from .machine.memory import Region
from .machine.tma import TensorMap

FORMATS = {"i1": "b", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u1": "B", "u8": "B", "u16": "H", "u32": "I",
           "u64": "Q", "fp32": "f", "f32": "f", "fp64": "d", "fp16": "e"}
TF32 = 11  # CU_TENSOR_MAP_DATA_TYPE_TFLOAT32


class Arguments:
    """Arguments without the constants: values, their types, tensors by name, and tensor maps by their place.

    names, signature: of the kernel's parameters. described: what the compiler says of tensor descriptors, in their
    order; None where they are lowered to pointers.
    """

    def __init__(self, names, signature, described, args):
        self.values, self.kinds, self.tensors, self.maps = [], [], [], {}
        self._described, self._met = described, 0
        for name, value, kind in zip(names, args, signature):
            self._add(name, value, kind)

    def add_scratch(self, size: int) -> None:
        """Memory that the compiler asks for; none where it is of no bytes."""
        scratch = torch.empty(size, dtype=torch.uint8) if size else None
        if size:
            self.tensors.append(("scratch", scratch))
        self._append(scratch, "*i8")

    def _add(self, name, value, kind):
        if isinstance(kind, tuple):
            for i, (v, k) in enumerate(zip(value, kind)):
                self._add(f"{name}[{i}]", v, k)
            return
        if kind == "constexpr":
            return
        if kind.startswith("tensordesc"):
            self._add_descriptor(name, value, kind)
            return
        if kind[0] == "*" and value is not None:
            self.tensors.append((name, value))
        self._append(value, kind)

    def _append(self, value, kind):
        self.values.append(value)
        self.kinds.append(kind)

    def _extend(self, values, kinds):
        self.values.extend(values)
        self.kinds.extend(kinds)

    def _add_descriptor(self, name, value, kind):
        """A descriptor's map, shape and strides; lowered to pointers, its base and flags as well, and those twice."""
        self.tensors.append((name, value.base))
        shape, strides, fill_nan = list(value.shape), list(value.strides), value.padding == "nan"
        rounds = [value.round_f32_to_tf32] if hasattr(value, "round_f32_to_tf32") else []  # Triton 3.6 has no such flag
        if not self._described:
            element = kind.partition("<")[2].partition("[")[0]
            self._append(value.base, f"*{element}")
            self._extend([*shape, *strides], ["i64"] * 2 * len(shape))
            self._extend([fill_nan, *rounds], ["i1"] * (1 + len(rounds)))
        else:
            meta = self._described[self._met]
            self._met += 1
            if meta["fp4_padded"]:
                raise NotImplementedError("fp4")
            element = TMA_DTYPE_DEVICE_TO_HOST[TF32 if any(rounds) else meta["elem_type"]]
            self.maps[len(self.values)] = TensorMap(value.base.data_ptr(), meta["swizzle"], meta["elem_size"], element,
                                                    meta["block_size"], shape, strides, fill_nan)
            self._append(None, "nvTmaDesc")
        self._extend([*shape, *strides], ["i32"] * len(shape) + ["i64"] * len(shape))

    def buffer(self, program) -> tuple[bytes, dict[int, TensorMap]]:
        """The parameters as a kernel finds them, and the tensor maps by their offset there."""
        params, maps, declared = bytearray(program.param_size), {}, program.kernel.params
        assert len(declared) == len(self.values), f"{len(declared)} parameters, {len(self.values)} values"
        for i, ((name, size, _), value, kind) in enumerate(zip(declared, self.values, self.kinds)):
            at = program.params[name]
            if kind == "nvTmaDesc":
                maps[at] = self.maps[i]
                continue
            raw = _packed(value, kind)
            assert len(raw) == size, (name, kind, size)
            params[at:at + size] = raw
        return bytes(params), maps

    def regions(self, exact: bool) -> list[Region]:
        """The memory of a launch."""
        return regions(self.tensors, exact)


def _packed(value, kind) -> bytes:
    if kind[0] == "*":
        return struct.pack("<Q", value if isinstance(value, int) else 0 if value is None else value.data_ptr())
    if kind == "bf16":
        return struct.pack("<f", float(value))[2:]
    return struct.pack("<" + FORMATS[kind], value)


def regions(tensors, exact: bool) -> list[Region]:
    """The storages of these (name, tensor); exact: the bytes of the tensors alone may be used."""
    found = {}
    for name, tensor in tensors:
        storage = tensor.untyped_storage()
        found.setdefault((storage.data_ptr(), storage.nbytes()), []).append((name, tensor))
    return [Region("/".join(name for name, _ in views), address, size,
                   _allowed(address, size, [tensor for _, tensor in views]) if exact else None)
            for (address, size), views in found.items()]


def _allowed(address, size, tensors):
    """Which bytes of a storage belong to one of these views of it."""
    allowed = np.zeros(size, bool)
    flags = torch.from_numpy(allowed).view(torch.uint8)
    for t in tensors:
        item, first = t.element_size(), t.data_ptr() - address
        for byte in range(item if t.numel() else 0):
            flags.as_strided(t.shape, [stride * item for stride in t.stride()], first + byte).fill_(1)
    return allowed
