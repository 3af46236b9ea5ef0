"""A small 3-D U-Net, its volume split over ranks along the depth, compared with one process: loss, gradients, memory.

    pip install .
    python examples/sharded_unet.py --ranks 4
    torchrun --nproc-per-node 4 examples/sharded_unet.py

Every rank has a slab of the volume and of everything that is computed from it; weights are replicated. The layers
exchange the planes that their kernels reach across the borders, forward and backward, and nobody calls that by name:
they are given DTensors. On a machine with a GPU for each rank, the same program runs on them.
"""

import argparse
import gc
import os
import socket

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_module, distribute_tensor

import triton_conv3dt as t3

TOLERANCE = 1e-4  # of the largest value of a gradient: sums in another order


class UNet(nn.Module):
    """[N, 1, D, H, W] to logits of the same shape; each rank's part of D, and H and W, are multiples of 4."""

    def __init__(self, channels=8):
        super().__init__()
        self.down = nn.ModuleList([Block(1, channels), Block(channels, 2 * channels),
                                   Block(2 * channels, 4 * channels)])
        self.up = nn.ModuleList([t3.nn.ConvTranspose3d(4 * channels, 2 * channels, kernel_size=4, stride=2, padding=1),
                                 t3.nn.ConvTranspose3d(2 * channels, channels, kernel_size=2, stride=2)])
        self.merge = nn.ModuleList([Block(4 * channels, 2 * channels), Block(2 * channels, channels)])
        self.head = t3.nn.ConvTranspose3d(channels, 1, kernel_size=1)

    def forward(self, x):
        skips = []
        for i, block in enumerate(self.down):
            x = block(halved(x) if i else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1]):
            x = merge(up(x, concat=skip))
        return self.head(x)


class Block(nn.Module):
    """A convolution, a norm of each channel of each sample, leaky ReLU."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        # With stride 1 a transposed convolution is a convolution whose kernel is read backwards.
        self.convolution = t3.nn.ConvTranspose3d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, x):
        x = self.convolution(x)
        x = x - mean(x)
        return F.leaky_relu(x * (mean(x * x) + 1e-5).rsqrt(), 0.01)


def mean(x):
    """Over D, H and W, of all ranks."""
    return x.sum((2, 3, 4), keepdim=True) / x.shape[2:].numel()


def halved(x):
    """The largest of each 2 x 2 x 2 places: of this rank alone, since its shard begins and ends at one."""
    y = F.max_pool3d(local(x), 2)
    return DTensor.from_local(y, x.device_mesh, x.placements, run_check=False) if isinstance(x, DTensor) else y


def step(net, x, truth):
    """The loss, its gradients, and how many bytes this process kept for them, beside its parameters."""
    kept, parameters = {}, {local(p).untyped_storage().data_ptr() for p in net.parameters()}

    def count(t):
        storage = local(t).untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        logits = net(x)
        loss = (F.softplus(logits) - logits * truth).sum() / truth.numel()  # cross entropy
        loss = loss.full_tensor() if isinstance(loss, DTensor) else loss
    loss.backward()
    return loss.item(), {name: local(p.grad) for name, p in net.named_parameters()}, sum(kept.values())


def local(t):
    return t.to_local() if isinstance(t, DTensor) else t


def compare(device, size):
    """One step in this process alone and one with the others."""
    torch.manual_seed(0)  # the same net and the same volume on all ranks
    net = UNet().to(device)
    x = torch.randn(1, 1, *size, device=device)
    truth = (x > 1).float()
    loss, gradients, whole = step(net, x, truth)
    gradients = {name: g.clone() for name, g in gradients.items()}
    net.zero_grad()

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    distribute_module(net, mesh)  # replicates the parameters
    sharded = step(net, distribute_tensor(x, mesh, [Shard(2)]), distribute_tensor(truth, mesh, [Shard(2)]))
    errors = [(g - gradients[name]).abs().max() / gradients[name].abs().max() for name, g in sharded[1].items()]
    return loss, whole, sharded[0], max(errors).item(), sharded[2]


def main(rank=0, ranks=1, port=None, size=(32, 32, 32)):
    if port is not None:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                       "RANK": str(rank), "WORLD_SIZE": str(ranks)}
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank) if torch.cuda.device_count() >= ranks else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # or the rounding of TF32 would be all that one sees
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        loss, whole, sharded_loss, worst, kept = compare(device, size)
        results = [None] * ranks
        dist.all_gather_object(results, kept)
        if rank == 0:
            print(f"loss of one process {loss:.6f}, of {ranks} ranks {sharded_loss:.6f}")
            print(f"gradients differ by {worst:.1e} of the largest value or less")
            print(f"kept for the backward pass: one process {whole / 1e6:.1f} MB, ranks "
                  + ", ".join(f"{bytes / 1e6:.1f} MB" for bytes in results))
        if worst > TOLERANCE or abs(sharded_loss - loss) > TOLERANCE * abs(loss):
            raise SystemExit("That is more than rounding explains.")
        gc.collect()  # what is left of the exchanges
        dist.barrier()  # nobody closes its connections while another needs them
    finally:
        dist.destroy_process_group()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="processes to start, where torchrun has started none")
    parser.add_argument("--size", type=int, nargs=3, default=(32, 32, 32), help="depth, height and width of the volume")
    options = parser.parse_args()
    if "RANK" in os.environ:
        main(size=options.size)
    else:
        torch.multiprocessing.spawn(main, (options.ranks, free_port(), options.size), options.ranks)
