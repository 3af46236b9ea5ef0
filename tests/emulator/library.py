"""The library on the emulator: its public interface takes CPU tensors, and its compiled kernels run."""

from contextlib import contextmanager
from unittest import mock

from triton_conv3dt import backends, functional
from triton_conv3dt.launching import launch
from triton_conv3dt.planning.device import Device

from .driver import emulating


@contextmanager
def emulated(target="nvidia_h200", **options):
    """Calls with backend="triton" run for this target meanwhile; yields the emulator. options: those of `emulating`."""
    with (emulating(target, **options) as emulator,
          mock.patch.object(launch.devices, "current", lambda index=0: Device.named(target)),
          mock.patch.object(launch, "unsupported", lambda x, w: None),
          mock.patch.object(backends, "unsupported", lambda x, w: None),
          mock.patch.object(launch, "_records", {}), mock.patch.object(functional, "_calls", {})):
        yield emulator
