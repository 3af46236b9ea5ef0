"""What a measurement depends on: the device, its clocks, and every version. Recorded beside the numbers."""

import datetime
import platform
import shlex
import subprocess
import sys
from importlib import metadata

from .. import __version__
from ..planning import constraints
from ..planning.device import Device

PACKAGES = ("torch", "triton", "jax", "numpy")
DRIVER = {"driver": "driver_version"}
CLOCKS = {"sm_mhz": "clocks.sm", "sm_mhz_max": "clocks.max.sm", "memory_mhz": "clocks.mem", "power_w": "power.draw",
          "power_limit_w": "power.limit", "temperature_c": "temperature.gpu"}


def versions() -> dict[str, str]:
    """Of everything that has a say in the result."""
    import torch

    found = {"triton_conv3dt": __version__, "python": platform.python_version()}
    found |= {name: version for name in PACKAGES if (version := _version(name))}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def clocks(index: int = 0) -> dict[str, str]:
    """Clocks, power and temperature of a CUDA device now, as nvidia-smi has them; {} where it is missing."""
    return _asked(CLOCKS, index)


def facts(device: Device, index: int = 0) -> dict:
    """One row that says what was measured where, when and by which command."""
    without = f"{constraints.VARIABLE}={shlex.quote(str(constraints.current()))} " if constraints.current() else ""
    return {"device": device.name, "capability": "{}.{}".format(*device.capability), "sms": device.sms,
            "reported": reported(index), "host": platform.machine(), "system": platform.system(),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "command": without + shlex.join(["triton-conv3dt", *sys.argv[1:]]), **versions(), **_asked(DRIVER, index)}


def _asked(what: dict[str, str], index: int) -> dict[str, str]:
    command = ["nvidia-smi", f"--id={_smi_id(index)}", f"--query-gpu={','.join(what.values())}",
               "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(what, (value.strip() for value in answer.splitlines()[0].split(",")))) if answer.strip() else {}


def _smi_id(index: int) -> str:
    """How nvidia-smi, which knows no CUDA_VISIBLE_DEVICES, calls a device of this process."""
    import torch

    identity = getattr(torch.cuda.get_device_properties(index), "uuid", None) if torch.cuda.is_available() else None
    return f"GPU-{identity}" if identity else str(index)


def reported(index: int = 0) -> str:
    """What a CUDA device calls itself; "" where there is none."""
    import torch

    return torch.cuda.get_device_name(index) if torch.cuda.is_available() else ""


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
