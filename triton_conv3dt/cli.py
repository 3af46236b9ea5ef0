"""The command line: parse, call, print. Exit codes: 0 done, 1 it failed, 2 the options cannot be meant."""

import argparse
import os
import sys
from pathlib import Path

from .device import KNOWN, Device
from .problem import ACTIVATIONS, DIRECTIONS, ITEM_SIZES, LAYOUTS, PRECISIONS, Activation, Problem

ENVIRONMENT = ("TRITON_INTERPRET", "TRITON_CONV3DT_FALLBACK", "CUDA_VISIBLE_DEVICES")


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; argv is sys.argv[1:] where it is not given. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="triton-conv3dt", description="Transposed 3-D convolution in Triton.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    info = commands.add_parser("info", help="versions, device and settings, to paste into a bug report",
                               description="Print versions, device and settings, to paste into a bug report.")
    info.set_defaults(run=_info)

    demo = commands.add_parser("demo", help="upsample a real MRI volume and compare with PyTorch",
                               description="Upsample a real MRI volume by two per axis, compare the result with "
                                           "PyTorch's in fp64, and draw slices before and after.")
    demo.add_argument("--output", type=_picture, default=Path("demo.png"), metavar="FILE",
                      help="where the picture goes (default: %(default)s)")
    demo.add_argument("--quiet", action="store_true", help="print the table only: no progress, no explanation")
    demo.set_defaults(run=_demo)

    _add_explain(commands)
    return parser


def _add_explain(commands) -> None:
    explain = commands.add_parser(
        "explain", help="what would run for a layer, and why",
        description="Print what would run for a layer on a GPU, which need not be here, and why.",
        epilog="example: triton-conv3dt explain --input 2,64,64,64,64 --channels 32 --kernel 2 --stride 2 --bias "
               "--activation leaky_relu --dtype float16 --device nvidia_h200")
    layer = explain.add_argument_group("layer", "as torch.nn.ConvTranspose3d has it; one integer, or three as D,H,W")
    layer.add_argument("--input", type=_sizes, required=True, metavar="N,CI,D,H,W", help="shape of the input")
    layer.add_argument("--channels", type=_positive, required=True, metavar="CO", help="output channels")
    layer.add_argument("--kernel", type=_triple(1), required=True, metavar="K", help="kernel size")
    layer.add_argument("--stride", type=_triple(1), default="1", metavar="S", help="stride (default: %(default)s)")
    layer.add_argument("--padding", type=_triple(0), default="0", metavar="P", help="padding (default: %(default)s)")
    layer.add_argument("--output-padding", type=_triple(0), default="0", metavar="OP",
                       help="output padding (default: %(default)s)")
    layer.add_argument("--dilation", type=_triple(1), default="1", metavar="D", help="dilation (default: %(default)s)")
    layer.add_argument("--groups", type=_positive, default=1, metavar="G", help="groups (default: %(default)s)")
    layer.add_argument("--bias", action="store_true", help="add a bias")
    layer.add_argument("--residual", action="store_true", help="add a residual before the activation")
    layer.add_argument("--activation", type=_activation, metavar="NAME", help=f"one of {', '.join(ACTIVATIONS)}")
    run = explain.add_argument_group("how it is run")
    run.add_argument("--direction", choices=DIRECTIONS, default="forward",
                     help="which of the three products (default: %(default)s)")
    run.add_argument("--dtype", choices=tuple(ITEM_SIZES), default="float16",
                     help="type of the tensors (default: %(default)s)")
    run.add_argument("--precision", choices=PRECISIONS, default="tf32",
                     help="of products in float32 (default: %(default)s)")
    run.add_argument("--layout", choices=LAYOUTS, default="channels_first",
                     help="memory format of the tensors (default: %(default)s)")
    run.add_argument("--device", choices=tuple(KNOWN), metavar="NAME",
                     help=f"one of {', '.join(KNOWN)} (default: the GPU here, or nvidia_h200 where there is none)")
    explain.set_defaults(run=_explain, refuse=explain.error)


def _positive(text: str) -> int:
    return _integers(text, (1,), 1, "a positive integer")[0]


def _sizes(text: str) -> tuple[int, ...]:
    return _integers(text, (5,), 1, "N,CI,D,H,W: five positive integers")


def _triple(least: int):
    def parse(text: str) -> tuple[int, ...]:
        values = _integers(text, (1, 3), least, f"an integer of at least {least}, or three as D,H,W")
        return values * 3 if len(values) == 1 else values

    return parse


def _integers(text: str, counts: tuple[int, ...], least: int, expected: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in counts or min(values) < least:
        raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")
    return values


def _activation(text: str) -> Activation | None:
    try:
        return Activation.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _picture(text: str) -> Path:
    from . import demo

    try:
        return demo.writable(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _demo(arguments) -> int:
    from . import demo

    return 0 if demo.run(arguments.output, arguments.quiet) else 1


def _explain(arguments) -> int:
    n, ci, *in_size = arguments.input
    for name, channels in (("--input has CI", ci), ("--channels", arguments.channels)):
        if channels % arguments.groups:
            arguments.refuse(f"{name} = {channels}, which --groups {arguments.groups} does not divide")
    if any(op >= max(s, d) for op, s, d in zip(arguments.output_padding, arguments.stride, arguments.dilation)):
        arguments.refuse("--output-padding must be smaller than --stride or --dilation on every axis, "
                         f"received {_commas(arguments.output_padding)}")
    problem = Problem.of_layer(
        arguments.direction, n=n, ci=ci, co=arguments.channels, in_size=tuple(in_size), kernel=arguments.kernel,
        stride=arguments.stride, padding=arguments.padding, output_padding=arguments.output_padding,
        dilation=arguments.dilation, groups=arguments.groups, dtype=arguments.dtype, layout=arguments.layout,
        bias=arguments.bias, activation=arguments.activation, residual=arguments.residual,
        precision=arguments.precision)
    if min(problem.out_size) < 1:
        arguments.refuse(f"this layer has no output: its size would be {_commas(problem.out_size)}; "
                         "use less --padding or a larger --input")
    from . import launch  # imports torch: only where it is needed

    try:
        print(launch.plan(problem, _device(arguments)))
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _device(arguments) -> Device:
    from . import device

    if arguments.device:
        return Device.named(arguments.device)
    try:
        return device.current()
    except RuntimeError:
        return Device.named("nvidia_h200")


def _commas(values) -> str:
    return ",".join(map(str, values))


def _info(arguments) -> int:
    for name, value in _facts():
        print(f"{name:<12} {value}")
    return 0


def _facts():
    """What a bug report needs, as pairs (name, value)."""
    import platform

    version = _version("triton_conv3dt") or "(not installed, a checkout)"
    yield "package", f"triton_conv3dt {version} in {Path(__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    try:
        import torch
    except ImportError as error:
        yield "torch", f"cannot be imported: {error}"
        return
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    yield "torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}, cuDNN {cudnn or 'none'}"
    yield "triton", _version("triton") or "not installed: the PyTorch backend remains"
    yield "numpy", _version("numpy") or "not installed"
    if not torch.cuda.is_available():
        yield "device", "none (no CUDA device)"
    for index in range(torch.cuda.device_count()):
        yield "device", f"{index}: {_gpu(index)}"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    yield "interpreter", "on: backend=\"triton\" runs the kernels on CPU tensors" if interpreted else "off"
    for variable in ENVIRONMENT:
        yield "environment", f"{variable}={os.environ.get(variable, '(not set)')}"
    yield "configs", _configs()


def _gpu(index: int) -> str:
    import torch

    from . import device

    gpu = device.current(index)
    return (f"{torch.cuda.get_device_name(index)} ({gpu.name}), capability {gpu.capability[0]}.{gpu.capability[1]}, "
            f"{gpu.sms} SMs, {gpu.shared_memory >> 10} KiB of shared memory for a block")


def _configs() -> str:
    here = Path(__file__).parent
    for folder in (here / "_configs", here.parent / "autotune_configs"):
        if folder.is_dir():
            tuned = len(list(folder.rglob("*.json")))
            return f"{folder}: {tuned} files" + ("" if tuned else "; the defaults of config.py are used")
    return "none; the defaults of config.py are used"


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
