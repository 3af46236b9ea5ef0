"""Upsample a brain scan by one transposed convolution whose weights interpolate linearly, and draw it before and after.

    pip install ".[demo]"
    python examples/upsample_scan.py --scale 2 --output upsample_scan.png

The scan is the one that nibabel ships; --input takes another (NIfTI, 3-D or 4-D). Runs on a GPU where there is one, and
prints how far the result is from torch.nn.functional.interpolate.
"""

import argparse
from pathlib import Path

import nibabel
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

import triton_conv3dt as t3

SHIPPED = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"


def load(path):
    """The first volume of a scan, as [D, H, W] between 0 and 1, and the size of its voxels in mm."""
    image = nibabel.load(path)
    data = torch.from_numpy(image.get_fdata(dtype="float32"))  # [W, H, D] or [W, H, D, N]
    volume = (data if data.dim() == 3 else data[..., 0]).permute(2, 1, 0).contiguous()
    return volume / volume.max(), [float(size) for size in image.header.get_zooms()[2::-1]]


def trilinear(scale):
    """[1, 1, K, K, K]: a triangle along each axis, 2 * scale wide."""
    size = 2 * scale - scale % 2
    line = 1 - (torch.arange(size) - (size - 1) / 2).abs() / scale
    return torch.einsum("d,h,w->dhw", line, line, line)[None, None]


def upsample(volumes, scale):
    """[N, 1, D, H, W] with every axis scale times as long."""
    weight = trilinear(scale).to(volumes)
    # One voxel more on every side, a copy of the outermost: what is to be interpolated there needs a neighbour. The
    # padding crops the result to its place.
    volumes = F.pad(volumes, [1] * 6, mode="replicate")
    return t3.conv_transpose3d(volumes, weight, stride=scale, padding=scale + (weight.shape[-1] - scale) // 2)


def draw(path, before, after, voxel, scale):
    """The middle slices of both volumes [D, H, W], and a part of each of them enlarged."""
    figure = Figure(figsize=(11, 6), dpi=110, layout="constrained")
    old, new = (" × ".join(map(str, volume.shape)) for volume in (before, after))
    figure.suptitle(f"Upsampled by {scale} per axis with one transposed convolution: {old} → {new} voxels")
    white = before.quantile(0.998).item()
    planes = (("axial", 0, 1, 2), ("coronal", 1, 0, 2))
    rows = figure.subplots(len(planes), 3, height_ratios=(2, 1))
    for axes, (name, across, down, right) in zip(rows, planes):
        high, wide = before.shape[down], before.shape[right]
        part = (wide * 0.48, wide * 0.78, high * 0.5, high * 0.9)  # left, right, bottom, top, in voxels of before
        for place, volume, title, limits in ((axes[0], before, f"{name} slice, before", None),
                                             (axes[1], before, "the outlined part, before", part),
                                             (axes[2], after, "the outlined part, after", part)):
            place.imshow(volume.select(across, volume.shape[across] // 2), cmap="gray", vmin=0, vmax=white,
                         origin="lower", interpolation="nearest", extent=(0, wide, 0, high),
                         aspect=voxel[down] / voxel[right])
            place.set(title=title, xticks=[], yticks=[])
            if limits:
                place.set(xlim=limits[:2], ylim=limits[2:])
        axes[0].plot([part[i] for i in (0, 1, 1, 0, 0)], [part[i] for i in (2, 2, 3, 3, 2)], color="orange")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=SHIPPED, help="a scan in NIfTI format")
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), default=2, help="of every axis")
    parser.add_argument("--output", type=Path, default=Path("upsample_scan.png"), help="where the picture goes")
    options = parser.parse_args()

    before, voxel = load(options.input)
    x = before[None, None].to("cuda" if torch.cuda.is_available() else "cpu")
    y = upsample(x, options.scale)
    expected = F.interpolate(x, scale_factor=options.scale, mode="trilinear")
    print(f"{list(x.shape)} -> {list(y.shape)} on {x.device}, "
          f"largest difference from interpolate: {(y - expected).abs().max():.1e}")
    draw(options.output, before, y[0, 0].cpu(), voxel, options.scale)
    print(f"The picture is in {options.output}.")


if __name__ == "__main__":
    main()
