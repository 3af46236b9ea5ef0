"""Put the kernels into MONAI's DynUNet, a network that exists already, and compare it with what it was.

    pip install . monai
    python examples/convert_monai.py

t3.nn.convert changes the transposed convolutions in place and keeps the parameters. Outputs and gradients are the same
bits on a CPU, where PyTorch's implementation runs either way; on a GPU they differ by the rounding of fp32.
"""

import argparse
import copy

import torch

import triton_conv3dt as t3

TOLERANCE = 1e-3  # on a GPU, of the largest value of a tensor


def dynunet():
    from monai.networks.nets import DynUNet

    return DynUNet(spatial_dims=3, in_channels=1, out_channels=2, kernel_size=[3, 3, 3, 3],
                   strides=[1, 2, 2, [1, 2, 2]], upsample_kernel_size=[2, 2, [1, 2, 2]], filters=[8, 16, 32, 64])


def results(net, x):
    """The output of a network and the gradients of its parameters, by name."""
    y = net(x)
    y.square().mean().backward()
    return {"output": y.detach()} | {name: p.grad for name, p in net.named_parameters()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="of the input along each axis, a multiple of 8")
    options = parser.parse_args()
    try:
        net = dynunet()
    except ImportError as error:
        print(f"Nothing was compared: {error} (pip install monai)")
        return

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # or the rounding of TF32 would be all that one sees
    net = net.to(device)
    x = torch.randn(1, 1, *[options.size] * 3, device=device)
    converted = copy.deepcopy(net)
    for name in t3.nn.convert(converted):
        print(f"converted  {name}")

    theirs, ours = results(net, x), results(converted, x)
    errors = {name: ((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()).item() for name in theirs}
    worst = max(errors, key=errors.get)
    same = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    print(f"the output and {len(theirs) - 1} gradients on {device}: "
          + ("the same bits" if same else f"they differ by {errors[worst]:.1e} of the largest value or less ({worst})"))
    if not (same or device == "cuda" and errors[worst] < TOLERANCE):
        raise SystemExit("That is more than rounding explains.")


if __name__ == "__main__":
    main()
