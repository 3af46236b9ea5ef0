"""What the tests' quick compiler makes is what Triton makes."""

import pytest
import quick_compiler
from compile_sizes import lowered

from triton_conv3dt.compiling import compile
from triton_conv3dt.launching import binding, launch
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems import case

H200 = Device.named("nvidia_h200")


@pytest.mark.parametrize("text", (
    "forward n2 ci64 co32 in16 k3 s2 p1 op1 float16 channels_last", "grad_input n2 ci64 co32 in16 k2 s2 float16 channels_first",
    "grad_weight n2 ci256 co128 in16x32x32 k3 s2 p1 op1 float32 tf32", "grad_weight n1 ci32 co32 in16 k5 s2 p2 op1 g32 float16"))
def test_the_same_ptx(text, monkeypatch):
    plan = launch.plan(case.parse(text), H200)
    main = plan.schedule.main
    given = binding.constants_of(main) | binding.options_of(main)
    ptx = lambda: lowered(binding.kernel(main), compile.arguments(plan, main), given, "ptx")
    quickly = ptx()
    for owner, name, value in quick_compiler.replaced:
        monkeypatch.setattr(owner, name, value)
    assert quickly == ptx() and ".entry" in quickly


def test_this_triton_is_helped():
    assert quick_compiler.install() and len(quick_compiler.replaced) == 2
