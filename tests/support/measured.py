"""What is measured in tests: small layers, and a worker that answers from tables."""

import dataclasses

import trials
from triton_conv3dt.measuring import bench
from triton_conv3dt.measuring.bench import Bench
from triton_conv3dt.measuring.selection import CUDNN, OURS, Setting
from triton_conv3dt.problems.layers import layers
from triton_conv3dt.worker import Failure

H200 = trials.H200
SMALL = dict(n=2, ci=8, co=6, in_size=(2, 3, 2), out_size=(4, 6, 4), padding=(0, 0, 0), output_padding=(0, 0, 0),
             kernel=(2, 2, 2), stride=(2, 2, 2), dtype="float32", tags=(), mode="train")
LAYERS = {
    "concat first": SMALL | dict(followed_by="concat(x, skip) along C (deconv output FIRST) -> Conv3d"),
    "concat last": SMALL | dict(followed_by="concat(skip, x) -> Conv3d", bias=False),
    "relu": SMALL | dict(followed_by="ReLU (fused bias+ReLU)", kernel=(3,) * 3, padding=(1,) * 3,
                         output_padding=(1,) * 3),
    "gelu": SMALL | dict(followed_by="GELU (fused bias+GELU)"),
    "residual": SMALL | dict(followed_by="+= second conv_transpose3d (in-place add)"),
    "norm": SMALL | dict(followed_by="BatchNorm3d -> ReLU", dtype="float16"),
}


def layer(name):
    return dataclasses.replace(layers()[0], name=name, network="net", **LAYERS[name])


def setting(name="relu", direction="forward", layout="channels_first"):
    own = layer(name)
    return Setting(own, direction, own.dtype, layout)


class Answers:
    """A worker in this process: what each peer's check gives, and its cold time."""

    def __init__(self, checks=(), times=()):
        self.checks, self.times, self.asked = dict(checks), dict(times), []

    def ask(self, method, *arguments, seconds):
        self.asked.append((method, *arguments))
        if method == "card":
            return {"bandwidth": 4e12, "rate_float16": 6e14, "rate_bfloat16": 6e14, "rate_float32": 3e14,
                    "precision_float32": "tf32", "floor_us": 2.0, "clocks": CLOCKS}
        if method == "check":
            answer = self.checks.get(arguments[0], {"outcome": "ok", "error": 1e-4, "limit": 2e-3, "clock": "events"})
            if isinstance(answer, BaseException):
                raise answer
            return answer if isinstance(answer, Failure) else dict(answer)
        times = trials.TableTimer.times
        return {name: {kind: times(self.times.get(name, 100.0) - less).fields() for kind, less in
                       (("cold", 0), ("warm", 10), ("host", 90))} for name in arguments[1]}


class Named:
    """Names, known at once."""

    def of(self, setting, names):
        return {name: {"kernels": ["k"]} for name in names}


FACTS = {"command": "triton-conv3dt bench", "date": "2026-01-01 00:00 UTC", "torch": "2"}
CLOCKS = {"sm_mhz": "1980", "sm_mhz_max": "1980", "memory_mhz": "3201", "power_w": "650", "power_limit_w": "700",
          "temperature_c": "60"}


def run(journal, worker, settings, names=(OURS, CUDNN), kernels=Named(), **given):
    known = bench.known(journal.rows())
    return Bench(H200, journal, worker, kernels, known=known, **given).run(settings, names, FACTS)
