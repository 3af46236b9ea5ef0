"""Walks: problems of every kind that a walk has, and a config for each."""

from triton_conv3dt.planning import walk_memory
from triton_conv3dt.planning.config import Config
from triton_conv3dt.problems import case

LIES = dict(copy=False)  # TF32 that is rounded in registers
HALO = dict(copy=False, halo=True)  # 16 bits channels-last, in lines
D, W, DW, ALL, NONE = (True, False, False), (False, False, True), (True, False, True), (True,) * 3, (False,) * 3
TOGETHER, PADDED = (dict(taps=(way, "programs", "programs"), stages=1) for way in ("columns", "crossed"))
K3, K4 = "k3 s2 p1 op1", "k4 s2 p1"
CASES = {  # the problem; block_m, box, merge, and what else a config says
    "d merged": (f"forward n2 ci32 co16 in5x9x11 {K3} float16 channels_last bias", (16, (4, 8, 8), D)),
    "residual": (f"forward ci16 co16 in3x8x9 {K3} bfloat16 channels_last bias residual", (16, (4, 8, 8), DW)),
    "activation": (f"forward ci16 co16 in3x8x9 {K3} float16 channels_last bias residual leaky_relu(0.25)", (16, (4, 8, 8), D)),
    "a series": (f"forward ci16 co8 in3x8x10 {K3} float32 tf32 channels_first bias elu(1.0)", (8, (4, 8, 8), W)),
    "channels first": (f"forward ci16 co24 in4x5x12 {K3} float16 channels_first bias residual", (16, (2, 4, 16), W)),
    "tf32": (f"forward n2 ci40 co20 in3x9x9 {K3} float32 tf32 channels_first bias", (8, (4, 8, 8), DW)),
    "tf32, channels last": (f"forward ci24 co12 in3x8x9 {K3} float32 tf32 channels_last bias", (8, (4, 8, 8), D)),
    "full phases": (f"forward ci32 co16 in3x6x10 {K4} bfloat16 channels_last", (8, (2, 8, 8), ALL)),
    "phases apart": (f"forward ci16 co8 in3x6x10 {K4} float16 channels_last", (8, (3, 8, 8), NONE)),
    "stride 1": ("forward ci16 co24 in5x9x10 k3 p1 float16 channels_last", (16, (3, 8, 8), NONE, dict(stages=3))),
    "three steps a place": ("forward ci24 co8 in4x7x9 k5 s2 p2 op1 bfloat16 channels_last bias", (8, (3, 8, 8), D)),
    "blocks of channels": (f"forward ci72 co16 in3x5x9 {K3} float16 channels_last", (16, (4, 8, 8), D)),
    "two warpgroups": (f"forward n2 ci16 co32 in3x9x20 {K3} float16 channels_last", (32, (2, 8, 16), D)),
    "one plane": ("forward n3 ci16 co16 in1x8x8 k1x4x4 s1x2x2 p0x1x1 float16 channels_last", (16, (1, 8, 8), NONE)),
    "one plane, merged": ("forward n3 ci16 co16 in1x8x8 k1x4x4 s1x2x2 p0x1x1 float16 channels_last", (16, (1, 8, 8), W)),
    "dilated": ("forward ci16 co16 in4x6x9 k3 p2 d2 float16 channels_last", (16, (2, 8, 8), NONE)),
    "stride 3": ("forward ci16 co8 in3x4x9 k4 s3 p1 float16 channels_first", (8, (2, 8, 8), NONE)),
    "gradient": (f"grad_input n2 ci32 co16 in5x9x10 {K3} float16 channels_last", (32, (4, 8, 8), NONE)),
    "gradient, channels first": (
        f"grad_input ci24 co48 in4x6x12 {K3} float16 channels_first", (8, (2, 4, 16), NONE, dict(stages=3))),
    "gradient, tf32": (f"grad_input ci16 co24 in3x6x9 {K3} float32 tf32 channels_first", (16, (2, 8, 8), NONE)),
    "gradient, stride 1": ("grad_input ci16 co16 in4x9x9 k3 p1 bfloat16 channels_last", (16, (2, 8, 16), NONE)),
    "gradient, k5": ("grad_input ci16 co16 in3x6x8 k5 s2 p2 op1 bfloat16 channels_last", (16, (3, 8, 8), NONE)),
    "one stage": ("forward n2 ci32 co16 in4x9x10 k3x3x5 p1x1x2 float32 tf32 channels_first", (8, (3, 8, 8), NONE, dict(stages=1))),
    "one stage, phases apart": (f"forward ci16 co8 in5x6x10 {K4} float16 channels_last", (8, (3, 8, 8), NONE, dict(stages=1))),
    "one stage, residues": (f"grad_input ci16 co32 in5x9x10 {K3} bfloat16 channels_last", (16, (3, 8, 8), NONE, dict(stages=1))),
    "half rows": (f"forward ci64 co16 in4x5x9 {K3} float16 channels_last", (16, (4, 8, 8), D, dict(block_k=32))),
    "quarter rows": (f"forward ci48 co16 in4x5x9 {K3} float16 channels_last", (16, (4, 8, 8), D, dict(block_k=16))),
    "half rows, tf32": ("forward ci24 co16 in4x9x9 k3 p1 float32 tf32 channels_first", (16, (3, 8, 8), NONE, dict(block_k=16))),
    "quarter rows, tf32": ("forward ci24 co16 in4x9x9 k3 p1 float32 tf32 channels_last", (16, (3, 8, 8), NONE, dict(block_k=8))),
    "odd channels": ("forward n2 ci5 co8 in4x6x9 k3 p1 bfloat16 channels_first bias", (8, (2, 8, 8), NONE)),
    "odd channels, tf32": (f"forward ci10 co8 in4x6x9 {K3} float32 tf32 channels_last", (8, (2, 8, 8), D)),
    "gradient, half rows": (f"grad_input ci16 co64 in4x6x9 {K3} float16 channels_last", (16, (2, 8, 8), NONE, dict(block_k=32))),
    "gradient, padded channels": (
        f"grad_input n2 ci16 co24 in3x6x9 {K4} float16 channels_first", (16, (2, 8, 8), NONE, dict(block_k=32))),
    "gradient, odd channels": ("grad_input n2 ci8 co7 in3x6x9 k4x3x4 s2x1x2 p1 bfloat16 channels_last", (8, (2, 8, 8), NONE)),
    "gradient, padded size": ("grad_input n2 ci16 co16 in4x6x9 k3 s2 p1 bfloat16 channels_last", (16, (2, 8, 8), NONE)),
    "gradient, padded size, tf32": ("grad_input n2 ci8 co8 in3x5x9 k5 s2x3x2 float32 tf32 channels_first", (8, (2, 8, 8), NONE)),
    "gradient, merged residues": (f"grad_input n2 ci16 co8 in4x6x10 {K4} float16 channels_first", (16, (3, 8, 8), W)),
    "gradient, merged odd residues": ("grad_input n2 ci8 co5 in3x6x9 k3x4x5 s2x2x3 p1 bfloat16 channels_last", (8, (2, 8, 8), W)),
    "gradient, merged rows": ("grad_input ci16 co24 in3x6x9 k3x3x4 s2 float32 tf32 channels_first", (16, (2, 8, 8), W, dict(stages=1))),
    "two ages in one": ("forward n2 ci16 co16 in5x9x10 k3 p1 float16 channels_last", (16, (3, 8, 8), NONE, TOGETHER)),
    "four ages in one": ("forward ci16 co8 in7x6x9 k5 p2 float32 tf32 channels_first bias", (8, (7, 8, 8), NONE, TOGETHER)),
    "padded ages": ("forward ci16 co8 in5x6x9 k3x5x3 p1 bfloat16 channels_last", (8, (4, 8, 8), NONE, PADDED)),
    "eight ages in one": ("forward ci8 co8 in9x6x9 k7x3x3 p2 float16 channels_first bias", (8, (5, 8, 8), NONE, PADDED)),
    "ages of merged phases": (
        "forward ci16 co8 in4x6x10 k5x3x3 s1x2x2 p1 float16 channels_last", (8, (4, 8, 8), (False, True, True), TOGETHER)),
    "ages of phases apart": (f"forward ci16 co8 in5x6x10 {K4} float16 channels_last", (8, (3, 8, 8), NONE, TOGETHER)),
    "gradient, ages in one": ("grad_input ci16 co16 in6x9x9 k3 p1 bfloat16 channels_first", (16, (6, 8, 8), NONE, TOGETHER)),
    "gradient, ages of residues": ("grad_input ci8 co16 in5x6x8 k5 s2 p1 float32 tf32 channels_first", (8, (4, 8, 8), NONE, TOGETHER)),
    "gradient, padded ages of residues": (f"grad_input ci16 co16 in5x6x8 {K4} float16 channels_last", (16, (4, 8, 8), NONE, PADDED)),
    "one channel": ("forward n2 ci16 co1 in5x6x9 k4 s2 p1 float32 tf32 channels_last bias", (1, (3, 8, 8), ALL, TOGETHER)),
    "one channel, odd taps": ("forward ci16 co1 in3x6x9 k5 s2 p1 float16 channels_first", (1, (2, 8, 8), ALL)),
    "three channels": ("forward ci16 co3 in3x6x9 k4x5x5 s1x2x2 p1 bfloat16 channels_first bias", (4, (2, 8, 8), (False, True, True))),
    "three channels last": ("forward ci16 co3 in3x6x9 k3 s2 p1 op1 float16 channels_last bias residual", (4, (2, 8, 8), ALL)),
    "one of two channels": ("forward ci32 co2 in3x4x6 k9 s2 p4 op1 float32 tf32 channels_last bias", (1, (3, 8, 8), ALL, TOGETHER)),
    "two of three channels": ("forward n2 ci16 co3 in3x4x9 k5 s2 p2 op1 float16 channels_first bias", (2, (2, 8, 8), ALL)),
    "gradient, odd depth": ("grad_input n2 ci16 co16 in3x6x8 k2x3x3 s2 p1 op1 float16 channels_last", (16, (2, 8, 8), NONE)),
    "as it lies": (f"forward n2 ci32 co16 in4x9x11 {K3} float32 tf32 channels_first bias residual", (16, (3, 8, 8), DW, LIES)),
    "as it lies, channels last": (
        f"forward n2 ci20 co8 in4x5x9 {K3} float32 tf32 channels_last leaky_relu(0.25)", (8, (3, 8, 8), D, LIES)),
    "as it lies, phases apart": (f"forward ci5 co8 in3x6x10 {K4} float32 tf32 channels_first", (8, (3, 8, 8), NONE, LIES)),
    "as it lies, wide": (f"forward ci16 co8 in3x9x20 {K3} float32 tf32 channels_first", (8, (2, 8, 16), DW, LIES | dict(stages=3))),
    "as it lies, alone": ("forward n2 ci64 co8 in4x9x9 k3 p1 float32 tf32 channels_first", (8, (2, 8, 8), NONE, LIES | dict(stages=1))),
    "as it lies, gradient": ("grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 float32 tf32 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "as it lies, gradient, channels last": (
        "grad_input n2 ci8 co7 in3x5x9 k4x3x5 s2x3x2 p1 float32 tf32 channels_last", (8, (2, 8, 8), NONE, LIES)),
    "as it lies, gradient, runs": (
        "grad_input n2 ci16 co24 in3x6x9 k3x3x4 s2 p1 float32 tf32 channels_last", (16, (3, 8, 8), NONE, LIES)),
    "as it lies, five beside": (
        "forward n2 ci16 co8 in4x9x10 k3x2x6 p1 float32 tf32 channels_first", (8, (3, 8, 8), NONE, LIES | TOGETHER)),
    "as it lies, three beside": ("forward ci24 co8 in3x9x20 k3x3x4 p1 float32 tf32 channels_last", (8, (2, 4, 16), NONE, LIES | PADDED)),
    "as it lies, dilated": ("forward ci16 co16 in4x6x19 k3 p4 d4 float32 tf32 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie": (f"forward n2 ci32 co16 in4x9x11 {K3} float16 channels_first bias residual", (16, (3, 8, 8), DW, LIES)),
    "16 bits as they lie, by twos": (f"forward n2 ci40 co8 in4x9x14 {K4} bfloat16 channels_first", (8, (3, 8, 8), D, LIES)),
    "16 bits as they lie, wide": (f"forward ci16 co8 in3x9x22 {K3} float16 channels_first", (8, (2, 8, 16), DW, LIES | dict(stages=3))),
    "16 bits as they lie, odd channels": (f"forward ci5 co8 in3x6x10 {K4} float16 channels_first", (8, (3, 8, 8), NONE, LIES)),
    "16 bits as they lie, one stage": (
        "forward n2 ci64 co8 in4x9x9 k3 p1 bfloat16 channels_first", (8, (2, 8, 8), NONE, LIES | dict(stages=1))),
    "16 bits as they lie, ages": ("forward ci16 co8 in4x9x10 k3x2x6 p1 float16 channels_first", (8, (3, 8, 8), NONE, LIES | TOGETHER)),
    "16 bits as they lie, blocks": (
        "forward ci48 co8 in3x9x20 k3x3x4 p1 float16 channels_first", (8, (2, 4, 16), NONE, LIES | PADDED | dict(block_k=16))),
    "16 bits as they lie, dilated": ("forward ci16 co16 in4x6x18 k3 p4 d4 float16 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie, nothing beside": (
        "forward ci40 co8 in5x9x17 k3x3x1 p1x1x0 float16 channels_first", (8, (5, 8, 16), NONE, LIES)),
    "16 bits as they lie, gradient": (
        "grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 op1 float16 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie, odd gradient": ("grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 float16 channels_first", (16, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie, gradient of stride 1": (
        "grad_input ci16 co16 in4x9x10 k3 p1 bfloat16 channels_first", (16, (2, 8, 16), NONE, LIES | dict(stages=1))),
    "16 bits as they lie, gradient of stride 3": (
        "grad_input n2 ci8 co7 in3x5x8 k4x3x5 s2x3x3 p1 float16 channels_first", (8, (2, 8, 8), NONE, LIES)),
    "16 bits as they lie, gradient, blocks": (
        f"grad_input n2 ci8 co32 in3x9x10 {K4} bfloat16 channels_first", (8, (3, 8, 8), NONE, LIES | dict(block_k=16, stages=1))),
    "a halo": (f"forward n2 ci32 co16 in4x9x11 {K3} float16 channels_last bias residual", (16, (3, 8, 8), D, HALO)),
    "a halo, odd channels": (f"forward n2 ci40 co12 in3x9x13 {K4} bfloat16 channels_last", (16, (2, 8, 8), DW, HALO)),
    "a halo, wide": (f"forward ci16 co8 in3x9x22 {K3} float16 channels_last", (8, (2, 8, 16), DW, HALO | dict(stages=3))),
    "a halo, ages": ("forward ci16 co8 in4x9x10 k3x2x6 p1 float16 channels_last", (8, (3, 8, 8), NONE, HALO | TOGETHER)),
    "a halo, blocks": ("forward ci48 co8 in3x9x20 k3x3x4 p1 float16 channels_last", (8, (2, 4, 16), NONE, HALO | PADDED | dict(block_k=16))),
    "a halo, dilated": ("forward ci16 co16 in4x6x19 k3 p4 d4 float16 channels_last", (16, (2, 8, 8), NONE, HALO)),
    "a halo, nothing beside": ("forward ci40 co8 in5x9x17 k3x3x1 p1x1x0 float16 channels_last", (8, (5, 8, 16), NONE, HALO)),
    "a halo, gradient": (f"grad_input n2 ci16 co24 in3x5x9 {K3} float16 channels_last", (16, (2, 8, 8), NONE, HALO)),
    "a halo, odd gradient": ("grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 bfloat16 channels_last", (16, (2, 8, 8), NONE, HALO)),
    "a halo, gradient of stride 1": (
        "grad_input ci16 co16 in4x9x10 k3 p1 bfloat16 channels_last", (16, (2, 8, 16), NONE, HALO | dict(stages=1))),
    "a halo, gradient of stride 3": (
        "grad_input n2 ci8 co8 in3x5x8 k4x3x5 s2x3x3 p1 float16 channels_last", (8, (2, 8, 8), NONE, HALO)),
    "a halo, gradient, blocks": (f"grad_input n2 ci8 co32 in3x9x10 {K4} float16 channels_last", (8, (3, 8, 8), NONE, HALO | dict(block_k=16))),
    "a halo, copied": (f"forward n2 ci64 co24 in3x9x19 {K3} float16 channels_last bias", (32, (3, 8, 16), D, HALO)),
    "a halo, copied, odd channels": (f"forward n2 ci56 co32 in2x6x11 {K3} bfloat16 channels_last", (32, (3, 16, 8), D, HALO | dict(stages=1))),
    "a halo, copied, two beside": (
        "forward ci40 co32 in3x6x9 k3x2x5 s2 p1x0x2 op1 float16 channels_last", (32, (3, 8, 16), D, HALO | dict(stages=1))),
    "twins": (f"forward n2 ci24 co12 in3x9x11 {K4} float16 channels_first bias residual leaky_relu(0.25)", (16, (2, 8, 8), (True, True, False), LIES)),
    "twins, channels last": (f"forward ci16 co8 in4x6x10 {K3} bfloat16 channels_last y_layout=channels_first", (8, (3, 8, 8), D, HALO)),
    "groups by twos": (f"forward ci16 co16 in3x6x10 {K3} float32 tf32 channels_last bias", (16, (2, 8, 8), NONE, LIES)),
    "groups of unequal runs": ("forward n2 ci16 co8 in3x6x9 k5 s2 p2 op1 bfloat16 channels_last", (8, (3, 8, 8), D, HALO)),
    "a run": (f"forward n2 ci32 co16 in4x9x11 {K3} float16 channels_first bias residual", (16, (3, 1, 64), DW, LIES)),
    "a run, by twos": (f"forward n2 ci40 co8 in4x5x14 {K4} bfloat16 channels_first", (8, (3, 1, 64), D, LIES)),
    "a run, wide": (f"forward ci16 co8 in3x5x31 {K3} float16 channels_first", (8, (2, 1, 128), DW, LIES | dict(stages=3))),
    "a run, odd channels": (f"forward ci5 co8 in3x6x10 {K4} float16 channels_first", (8, (3, 1, 64), NONE, LIES)),
    "a run, ages": ("forward ci16 co8 in4x9x10 k3x2x6 p1 float16 channels_first", (8, (3, 1, 64), NONE, LIES | TOGETHER)),
    "a run, blocks": ("forward ci48 co8 in3x9x9 k3x3x4 p1 float16 channels_first", (8, (2, 1, 64), NONE, LIES | dict(block_k=16, stages=1))),
    "a run, dilated": ("forward ci16 co16 in4x6x10 k3 p4 d4 float16 channels_first", (16, (2, 1, 128), NONE, LIES)),
    "a run, nothing beside": ("forward ci16 co8 in3x7x9 k3x1x1 p1x0x0 float16 channels_first", (8, (3, 1, 64), NONE, LIES)),
    "a run, twins": (f"forward n2 ci24 co12 in3x5x11 {K4} float16 channels_first bias residual silu", (16, (2, 1, 64), (True, True, False), LIES)),
    "a run, gradient": (f"grad_input n2 ci16 co24 in3x5x9 {K3} float16 channels_first", (16, (2, 1, 64), NONE, LIES)),
    "a run, odd gradient": ("grad_input n2 ci16 co24 in3x5x9 k3 s2 p1 float16 channels_first", (16, (2, 1, 64), NONE, LIES)),
    "a run, gradient of stride 1": ("grad_input ci16 co16 in4x9x10 k3 p1 bfloat16 channels_first", (16, (2, 1, 128), NONE, LIES | dict(stages=1))),
    "a run, gradient of stride 3": (
        "grad_input n2 ci8 co7 in3x5x8 k4x3x5 s2x3x3 p1 float16 channels_first", (8, (2, 1, 64), NONE, LIES)),
    "a run, gradient, blocks": (
        f"grad_input n2 ci8 co32 in3x9x10 {K4} bfloat16 channels_first", (8, (3, 1, 64), NONE, LIES | dict(block_k=16, stages=1))),
    "a run with a halo": (f"forward n2 ci32 co16 in4x9x11 {K3} float16 channels_last bias", (16, (3, 1, 64), D, HALO)),
    "a run with a halo, gradient": (f"grad_input n2 ci16 co24 in3x5x9 {K3} bfloat16 channels_last", (16, (2, 1, 64), NONE, HALO)),
    "words": (f"grad_input n2 ci16 co8 in3x9x10 {K4} float16 channels_first", (16, (3, 8, 8), W, LIES)),
    "words, odd channels": (f"grad_input n2 ci16 co5 in4x5x19 {K3} bfloat16 channels_first", (16, (2, 8, 16), W, LIES | TOGETHER)),
    "words, none further": ("grad_input ci8 co7 in3x5x9 k3x2x5 s2x1x2 p1x0x2 op1x0x1 float16 channels_first", (8, (2, 4, 16), W, LIES)),
    "words, one tap": ("grad_input ci16 co8 in3x9x10 k3x3x2 s2 p1x1x0 op1x1x0 float16 channels_first", (16, (3, 8, 8), W, LIES)),
    "words, wide": (f"grad_input ci16 co8 in3x9x20 {K4} float16 channels_first", (16, (3, 8, 16), W, LIES | TOGETHER)),
    "as it lies, nothing beside": ("forward ci40 co8 in5x9x17 k3x3x1 p1x1x0 float32 tf32 channels_first", (8, (5, 8, 16), NONE, LIES)),
}


def problem_and_config(name):
    text, (block_m, box, merge, *more) = CASES[name]
    problem = case.parse(text)
    places, copy = box[1] * box[2], not walk_memory.as_it_is(problem) or walk_memory.beside(problem, merge) > 1
    more = dict(*more)
    given = dict(block_k=walk_memory.row_channels(problem, merge, copy or more.get("halo", False))[0], stages=2, copy=copy) | more
    return problem, Config("walk", block_m, places, warps=places // 16, merge=merge, box=box, **given)
