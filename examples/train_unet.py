"""Train a small 3-D U-Net to find spheres in noise, in less than a minute on a CPU, and draw what it finds.

    pip install ".[demo]"
    python examples/train_unet.py --steps 100 --output train_unet.png

The way up takes t3.nn.ConvTranspose3d: upsampling, bias, the skip connection (its `residual`) and the activation are
one kernel launch on a GPU. On a CPU the same layer runs PyTorch's implementation.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import triton_conv3dt as t3

SIZE = 32
NOISE = 0.6  # standard deviation; a sphere is 1 brighter than what surrounds it


class UNet(nn.Module):
    """[N, 1, D, H, W] to logits of the same shape; D, H and W are multiples of 4."""

    def __init__(self, channels=8):
        super().__init__()
        self.down = nn.ModuleList([block(1, channels), block(channels, 2 * channels, stride=2),
                                   block(2 * channels, 4 * channels, stride=2)])
        self.up = nn.ModuleList([
            t3.nn.ConvTranspose3d(4 * channels, 2 * channels, kernel_size=2, stride=2, activation=("leaky_relu", 0.01)),
            t3.nn.ConvTranspose3d(2 * channels, channels, kernel_size=2, stride=2, activation=("leaky_relu", 0.01))])
        self.merge = nn.ModuleList([block(2 * channels, 2 * channels), block(channels, channels)])
        self.head = nn.Conv3d(channels, 1, kernel_size=1)

    def forward(self, x):
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1]):
            x = merge(up(x, residual=skip))  # leaky_relu(conv_transpose(x) + bias + skip)
        return self.head(x)


def block(in_channels, out_channels, stride=1):
    return nn.Sequential(nn.Conv3d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1),
                         nn.InstanceNorm3d(out_channels, affine=True), nn.LeakyReLU(0.01))


def spheres(n, generator):
    """n noisy volumes with eight spheres each, and where the spheres are: two tensors [n, 1, SIZE, SIZE, SIZE]."""
    centres = torch.rand(n, 8, 3, 1, 1, 1, generator=generator) * SIZE
    radii = 3 + 3 * torch.rand(n, 8, 1, 1, 1, generator=generator)
    place = torch.stack(torch.meshgrid(*[torch.arange(float(SIZE))] * 3, indexing="ij"))
    inside = ((place - centres).square().sum(2) < radii.square()).any(1, keepdim=True).float()
    return inside + NOISE * torch.randn(inside.shape, generator=generator), inside


def dice(found, truth):
    """How far two sets agree: 1 where they are the same, 0 where they have nothing in common."""
    return (2 * (found * truth).sum() / (found.sum() + truth.sum())).item()


def train(net, steps, device, generator):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    with bar(steps) as progress:
        for _ in range(steps):
            x, truth = (t.to(device) for t in spheres(2, generator))
            logits = net(x)
            overlap = 2 * (logits.sigmoid() * truth).sum() / (logits.sigmoid().sum() + truth.sum())
            loss = F.binary_cross_entropy_with_logits(logits, truth) + 1 - overlap
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(loss.item())


def draw(path, volume, truth, found, score):
    """The middle slice of a volume, of the truth, of what was found, and where the last two differ."""
    figure = Figure(figsize=(12, 3.5), dpi=110, layout="constrained")
    figure.suptitle("A small 3-D U-Net finds spheres in noise: the middle slice of a volume of "
                    f"{SIZE} × {SIZE} × {SIZE} voxels that it has not seen")
    pictures = (("input", volume, "gray", (-1, 2)), ("truth", truth, "gray", (0, 1)),
                (f"prediction, Dice of the volume {score:.3f}", found, "gray", (0, 1)),
                ("red: too much, blue: missed", found - truth, "bwr", (-1, 1)))
    for place, (title, picture, colours, (low, high)) in zip(figure.subplots(1, len(pictures)), pictures):
        place.imshow(picture[SIZE // 2], cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        place.set_title(title, size=10)
        place.set(xticks=[], yticks=[])
    figure.savefig(path)


class bar:
    """A progress bar that shows the loss; a line every tenth step where tqdm is not installed."""

    def __init__(self, steps):
        self.steps, self.done, self.tqdm = steps, 0, None

    def __enter__(self):
        try:
            from tqdm import tqdm
            self.tqdm = tqdm(total=self.steps, unit="step")
        except ImportError:
            pass
        return self

    def __call__(self, loss):
        self.done += 1
        if self.tqdm is not None:
            self.tqdm.set_postfix(loss=f"{loss:.3f}")
            self.tqdm.update()
        elif self.done % 10 == 0 or self.done == self.steps:
            print(f"step {self.done}/{self.steps}  loss {loss:.3f}", flush=True)

    def __exit__(self, *error):
        if self.tqdm is not None:
            self.tqdm.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of the optimizer, two volumes each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("train_unet.png"), help="where the picture goes")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)  # the same sums on any number of cores, and enough for a net of this size
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    net = UNet().to(device)
    train(net, options.steps, device, generator)

    x, truth = spheres(4, generator)  # not seen in training
    with torch.no_grad():
        found = (net(x.to(device)).cpu() > 0).float()
    print(f"Dice of four volumes that the net has not seen: {dice(found, truth):.3f}")
    draw(options.output, x[0, 0], truth[0, 0], found[0, 0], dice(found[0], truth[0]))
    print(f"The picture is in {options.output}.")


if __name__ == "__main__":
    main()
