"""What Triton asks of a driver, answered where there is none: kernels compile for a GPU, and tensors are the CPU's."""

import torch
from triton.backends.compiler import GPUTarget


class Utils:
    """The properties of a device with so many bytes of shared memory and so many SMs; binaries are loaded nowhere."""

    def __init__(self, shared, sms):
        self.shared, self.sms = shared, sms

    def get_device_properties(self, device):
        return dict(max_shared_mem=self.shared, max_num_regs=65536, multiprocessor_count=self.sms, warpSize=32,
                    sm_clock_rate=1980000, mem_clock_rate=3201000, mem_bus_width=6144)

    def load_binary(self, name, binary, shared, device):
        return 1, 2, 90, 0, 1024  # module, function, registers, spills, threads at most


class AbsentDriver:
    """The driver of one target; `device` is the number of it. launcher_cls is what a subclass launches with."""

    binary_ext = "cubin"

    def __init__(self, arch, shared, sms, device=0):
        self.arch, self.device, self.utils = arch, device, Utils(shared, sms)

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device=0):
        return 0

    def set_current_device(self, device):
        pass

    def get_active_torch_device(self):
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty):
        return ty

    def is_active(self):
        return True
