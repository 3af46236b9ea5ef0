"""Compile layers for GPUs that are not there and print, as JSON, what each kernel uses: the worker of test_compile.py.

    python compile_rows.py name,direction,device[,path] ...

With a path, the cheapest sensible config of that path is compiled instead of the default.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

NNUNET = dict(n=2, ci=64, co=32, in_size=64, kernel=2, stride=2)
NNUNET_K3 = dict(n=2, ci=64, co=32, in_size=32, kernel=3, stride=2, padding=1, output_padding=1)
DEPTHWISE = dict(n=2, ci=64, co=64, in_size=32, kernel=5, stride=2, padding=2, output_padding=1, groups=64)
ROUNDS = ("cvt.rna.tf32", "setp.eq.f32 p,")  # PTX that rounds to TF32
LAYERS = {
    "k2s2": NNUNET,
    "k2s2 channels_last": NNUNET | dict(layout="channels_last"),
    "k4s2p1 channels_last": dict(n=2, ci=256, co=128, in_size=16, kernel=4, stride=2, padding=1, dtype="bfloat16",
                                 layout="channels_last"),
    "k3s2p1op1": NNUNET_K3,
    "k3s2p1op1 channels_last": NNUNET_K3 | dict(layout="channels_last"),
    "depthwise": DEPTHWISE,
    "depthwise channels_last": DEPTHWISE | dict(layout="channels_last"),
    "k122": dict(n=2, ci=320, co=320, in_size=(16, 8, 8), kernel=(1, 2, 2), stride=(1, 2, 2)),
    "k2s2 tf32": NNUNET | dict(dtype="float32"),
}
FORWARD = {  # in this direction only: what an epilogue reads, and fp32 whose taps shift along w
    "k2s2 residual": NNUNET | dict(residual=True, bias=True, activation="relu"),
    "k2s2 channels_last residual": NNUNET | dict(residual=True, bias=True, layout="channels_last"),
    "k3s2p1op1 residual": NNUNET_K3 | dict(residual=True),
    "k3s2p1op1 tf32": NNUNET_K3 | dict(dtype="float32"),
    "k2s2 statistics": NNUNET | dict(statistics="instance", bias=True),
    "k3s2p1op1 channels_last statistics": NNUNET_K3 | dict(layout="channels_last", statistics="batch"),
}
FEW = {  # input gradients alone: few channels, which are summed over with their taps
    "k3s2p1op1 of one": dict(n=2, ci=64, co=1, in_size=32, kernel=3, stride=2, padding=1, output_padding=1),
    "k8s8 of three": dict(n=1, ci=512, co=3, in_size=(4, 32, 32), kernel=(4, 8, 8), stride=(4, 8, 8), dtype="bfloat16"),
    "k32s32 of one": dict(n=4, ci=768, co=1, in_size=3, kernel=32, stride=32),
    "k4s2p1 of one tf32": dict(n=8, ci=32, co=1, in_size=32, kernel=4, stride=2, padding=1, dtype="float32"),
    "k9s2p3 of one channels_last tf32": dict(n=32, ci=32, co=1, in_size=32, kernel=9, stride=2, padding=3, dtype="float32",
                                             layout="channels_last"),
}
DEPTHWISE_K3 = DEPTHWISE | dict(ci=128, co=128, kernel=3, padding=1, output_padding=0, groups=128)
BLACKWELL = {"depthwise k3": DEPTHWISE_K3, "k2s2 wide tiles tf32": dict(n=2, ci=128, co=32, in_size=(32, 32, 16), kernel=2, stride=2,
                                                                        dtype="float32")}  # grad_input only
COPIES = {"k4s2p1 tf32 weight": dict(n=2, ci=256, co=128, in_size=16, kernel=4, stride=2, padding=1, dtype="float32")}  # grad_weight only
PAIRS = {"k3s2p1op1 tf32 weight": NNUNET_K3 | dict(dtype="float32")}  # as well
WIDE = {"k4s2p1 wide channels_last": dict(n=1, ci=32, co=32, in_size=(256, 256, 152), kernel=4, stride=2, padding=1,
                                          layout="channels_last")}  # offsets of 64 bits


def compile_row(row: str) -> tuple[str, dict]:
    from triton_conv3dt.compiling import compile, machinecode
    from triton_conv3dt.launching import launch
    from triton_conv3dt.planning import config, costs, search
    from triton_conv3dt.planning.device import Device
    from triton_conv3dt.problems.problem import Problem

    name, direction, device, *path = row.split(",")
    given = {"bias": direction == "backward"} | (LAYERS | FORWARD | FEW | BLACKWELL | COPIES | PAIRS | WIDE)[name]
    problem, device = Problem.of_layer(direction, **given), Device.named(device)
    if direction == "backward":
        given = search.one_pass(problem, device)
    else:
        tried = [c for c in search.sensible(problem, device) if c.path in path]
        given = min(tried, key=lambda c: costs.cost(c, problem, device)) if path else None
    plan = launch.plan(problem, device, given)
    try:
        kernel = compile.compile_plan(plan)
        used = machinecode.resources(kernel)
    except Exception as error:  # one row that fails must not hide the others
        return row, {"error": f"{type(error).__name__}: {error}"}
    return row, asdict(used) | dict(spills=used.spills, widths=used.widths, config=str(plan.config), path=plan.config.path,
                                    budget=config.shared_memory(plan.config, plan.problem),
                                    limit=plan.device.shared_memory, rounds=any(word in kernel.asm["ptx"] for word in ROUNDS))


if __name__ == "__main__":
    import quick_compiler

    quick_compiler.install()
    with ProcessPoolExecutor(2) as pool:
        for row, used in pool.map(compile_row, sys.argv[1:]):
            print(json.dumps([row, used]), flush=True)
