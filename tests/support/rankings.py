"""The first candidates of one layer of each class, by direction and architecture, as text: what the cost model believes.

    PYTHONPATH=. python tests/support/rankings.py        # writes tests/data/rankings.txt; look at its diff before it is committed
"""

from pathlib import Path

from triton_conv3dt.planning import search
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.layers import layers
from triton_conv3dt.problems.problem import DIRECTIONS

FILE = Path(__file__).parents[1] / "data" / "rankings.txt"
FIRST = 10
DEVICES = ("nvidia_h200", "nvidia_a100")
CLASSES = {
    "kernel = stride, channels-first": "nnunet_hippo_up2",
    "kernel = stride, channels-last": "nvidia_nnunet_up4",
    "kernel = stride, small and deep": "monai_basicunet_up0",
    "kernel 3, stride 2": "gwcnet_train_1",
    "kernel 4, stride 2": "igev_train_2",
    "overlapping, few channels": "monai_unet_infer160_up3",
    "overlapping, single elements": "torch_opbench_ic32_oc64_k3_s2",
    "stride 1": "kb_1_61",
    "depthwise": "mednext_k3_up2_dw",
}


def rankings(kind: str) -> str:
    """The first candidates for the layer of a class, in every direction on every device."""
    layer, lines = next(layer for layer in layers() if layer.name == CLASSES[kind]), []
    for direction in DIRECTIONS:
        for device in map(Device.named, DEVICES):
            lines.append(f"{kind}: {layer.name}, {direction}, {device.name}")
            lines += [f"    {config}" for config in search.ranked(layer.problem(direction), device)[:FIRST]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text("\n".join(map(rankings, CLASSES)))
