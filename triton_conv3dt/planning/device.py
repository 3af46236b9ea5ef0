"""What a GPU offers, as a value. `current()` is the only place that asks the driver."""

import json
import re
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SHIPPED = (PACKAGE / "_configs", PACKAGE.parent / "autotune_configs")  # tuned configs, of the wheel and of a checkout

LEAST_CAPABILITY = (8, 0)  # that the kernels run on
REGISTERS = 65536  # of an SM of any of them


@dataclass(frozen=True)
class Device:
    """A GPU: canonical name, compute capability, and the limits that tiles must respect.

    shared_memory is what one block may use, in bytes. bandwidth (bytes/s) and matmul rates (FLOP/s, dense) are the
    vendor's figures; clock (Hz, of an SM under load) and l2 (bytes/s that all SMs read) are by micro-benchmarks. The cost
    model, rooflines and bounds go by them; 0 where they are not known. rates_of: the GPU whose figures, by SM, stand for
    those of one that is not known. interpreted: it is Triton's interpreter that stands for it, which has no Gluon.
    """

    name: str
    capability: tuple[int, int]
    sms: int
    shared_memory: int
    bandwidth: float = 0.0
    rate_16bit: float = 0.0
    rate_tf32: float = 0.0
    clock: float = 0.0
    l2: float = 0.0
    rates_of: str | None = None
    interpreted: bool = False

    @property
    def arch(self) -> int:
        return self.capability[0] * 10 + self.capability[1]

    @property
    def descriptors(self) -> bool:
        """Tensor descriptors lower to the bulk copy engine (TMA)."""
        return self.capability[0] >= 9

    @property
    def warpgroups(self) -> bool:
        """Tensor cores are driven by 4 warps at once (wgmma, tcgen05) and want 64 rows."""
        return self.capability[0] in (9, 10)

    @property
    def tensor_memory(self) -> int:
        """Columns, 128 rows of fp32 each, that an SM has for accumulators in a memory of their own (tcgen05); 0 without one."""
        return 512 if self.capability[0] == 10 else 0

    @property
    def walks(self) -> bool:
        """The walking form compiles for it and was executed, with the Triton that is installed."""
        return self.capability == (9, 0) and not self.interpreted and (3, 6) <= gluon() < (3, 9)

    @property
    def pairs(self) -> bool:
        """Two programs of a cluster may share what one of them fetches, with the Triton that is installed."""
        return self.capability == (9, 0) and not self.interpreted and (3, 7) <= gluon() < (3, 9)

    @staticmethod
    def of(name: str, capability: tuple[int, int], sms: int, shared_memory: int) -> "Device":
        """What a driver, or a file, says of a GPU, with the rates of the one that is known by this name; else, by SM, with those of the
        nearest in capability."""
        found = KNOWN.get(name)
        if found is None:
            near = min(KNOWN.values(), key=lambda known: (abs(known.arch - 10 * capability[0] - capability[1]), abs(known.sms - sms)))
            part = sms / near.sms
            found = replace(near, name=name, rates_of=near.name, bandwidth=near.bandwidth * part, rate_16bit=near.rate_16bit * part,
                            rate_tf32=near.rate_tf32 * part, l2=near.l2 * part)
        return replace(found, capability=capability, sms=sms, shared_memory=shared_memory)

    @staticmethod
    def named(name: str) -> "Device":
        """A device that need not be present, by its canonical name or one that it reports; case, punctuation and
        "nvidia" may be left away: "nvidia_h200", "h200" and "NVIDIA H100 80GB HBM3" are names.

        Raises:
            ValueError: the name is not known.
        """
        plain = {known.replace("_", ""): device for known, device in KNOWN.items()}
        for spelled in (name, f"nvidia {name}"):
            if device := plain.get(canonical_name(spelled).replace("_", "")):
                return device
        raise ValueError(f"device {name!r} is not known; known are {', '.join(KNOWN)}")


@lru_cache(maxsize=None)
def gluon() -> tuple[int, ...]:
    """The version of the installed Triton, whose Gluon is experimental: 3.6 fetches nothing for a cluster. 3.9 refuses to see a row of shared
    memory as more than it is, which pairs do. It compiles walks, but spills a few registers of the largest, and few of them were executed
    with it."""
    try:
        installed = version("triton")
    except PackageNotFoundError:
        return 3, 7  # to plan takes no Triton
    return tuple(int(part) for part in re.findall(r"\d+", installed)[:2])


# Vendor data sheets (SXM parts, dense rates) and the CUDA programming guide's table of capabilities.
KNOWN = {d.name: d for d in (
    Device("nvidia_b200", (10, 0), 148, 232448, 8.0e12, 2250e12, 1125e12),
    Device("nvidia_h200", (9, 0), 132, 232448, 4.8e12, 989e12, 494e12, 1.755e9, 5.5e12),
    Device("nvidia_h100", (9, 0), 132, 232448, 3.35e12, 989e12, 494e12, 1.755e9, 5.5e12),
    Device("nvidia_a100", (8, 0), 108, 166912, 2.0e12, 312e12, 156e12, 1.41e9),
    Device("nvidia_a10", (8, 6), 72, 101376, 0.6e12, 125e12, 62.5e12),
    Device("nvidia_l4", (8, 9), 58, 101376, 0.3e12, 121e12, 60e12),
    Device("nvidia_rtx_4090", (8, 9), 128, 101376, 1.008e12, 165e12, 82.6e12),
    Device("nvidia_rtx_5090", (12, 0), 170, 101376, 1.792e12, 209e12, 104.8e12),
)}


def canonical_name(reported: str) -> str:
    """The name configs are kept under: "NVIDIA H200" and "NVIDIA H200 NVL" are one device in devices.json.

    A name that is not in it stands for itself: "NVIDIA L40S" is nvidia_l40s.
    """
    return _aliases().get(_plain(reported)) or _plain(reported)


def _plain(reported: str) -> str:
    return "_".join(re.findall("[a-z0-9]+", reported.lower()))


@lru_cache(maxsize=None)
def _aliases() -> dict[str, str]:
    for path in (folder / "devices.json" for folder in SHIPPED):
        try:
            return {_plain(reported): name for reported, name in json.loads(path.read_text("utf-8")).items()}
        except OSError:
            continue
        except ValueError as error:
            warnings.warn(f"{path} is not valid JSON ({error}); devices keep the names they report", stacklevel=2)
    return {}


@lru_cache(maxsize=None)
def current(index: int = 0) -> Device:
    """The CUDA device with this index.

    Raises:
        RuntimeError: there is no such device.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device is available; pass Device.named(...) to plan for one that is not here")
    properties = torch.cuda.get_device_properties(index)
    return Device.of(canonical_name(properties.name), (properties.major, properties.minor), properties.multi_processor_count,
                     properties.shared_memory_per_block_optin)
