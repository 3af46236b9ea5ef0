"""Tuned configs of small layers, and how they are written in tests."""

from dataclasses import replace
from pathlib import Path

from triton_conv3dt.planning import store
from triton_conv3dt.planning.config import Config
from triton_conv3dt.planning.configfile import Entry
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.problem import Problem

H200 = Device.named("nvidia_h200")
MADE_WITH = {"triton": "3.6.0+git1", "torch": "2.11.0"}
LAYER = Problem.of_layer(n=2, ci=64, co=32, in_size=32, kernel=2, stride=2, bias=True)
TILES = [Config("gather", m, n, 32, stages=s) for m in (32, 64) for n in (32, 64) for s in (2, 3)]


def entry(problem=LAYER, config=TILES[0], median=10.0) -> Entry:
    return Entry(problem, config, {"median": median, "p20": 9.5, "p80": 10.5, "default": 12.0})


def keep(folder, *entries, made_with=MADE_WITH) -> Path:
    return store.save(entries, H200, made_with, folder)[-1]


def sized(depth, height=32, width=32, **changed) -> Problem:
    return replace(LAYER, in_size=(depth, height, width), out_size=(2 * depth, 2 * height, 2 * width), **changed)
