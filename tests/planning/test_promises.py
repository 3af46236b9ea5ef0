"""Promises to the compiler are true on random problems; and false ones are found."""

import random

import promises
import pytest
import torch

from triton_conv3dt.launching import tensors
from triton_conv3dt.planning import flat, lowering, taps
from triton_conv3dt.planning.config import Config
from triton_conv3dt.problems.problem import DIRECTIONS, Problem

SOME = 3000  # problems; `python tests/support/promises.py 1000000` checks as many as that, about a minute for 100,000


def test_promises_are_true():
    kinds, found = promises.main(SOME, seed=0)
    assert not found, "\n".join(found[:5])
    for kind in (*(f"{direction} direct, runs" for direction in DIRECTIONS), "forward pointers, runs",
                 "forward pointers of a copy, runs", "grad_input pointers wide, runs", "grad_weight gather, runs",
                 "backward onepass, runs", "forward box, runs"):
        assert kinds[kind], f"none was drawn: {kind}"


def test_the_runs_of_a_residual_are_true_beside_an_output_that_has_none():
    """Its phases are then written one by one; among these problems there is such a one."""
    _, found = promises.main(SOME // 2, seed=2)
    assert not found, "\n".join(found[:5])


def most(*given):
    """Whatever the alignment allows."""
    return given[-1]


def aligned(problem, config):
    """Whatever the memory of both tensors allows."""
    return min(problem.x_run, problem.y_run)


def without_halos(axis):
    """The same of x and dz in a weight gradient."""
    def found(*given):
        right, size = axis(*given)
        return right._replace(x=right.x._replace(halo=False), z=right.z._replace(halo=False)), size
    return found


def without_halo(axis):
    """An axis that says that no place it reads is outside."""
    return lambda *given: axis(*given)._replace(halo=False)


FALSE = {  # what is said instead, and what is wrong then
    "gathered": (lowering, "gathered_run", most, "gathered: "),
    "written": (lowering, "written_run", most, "written: "),
    "one pass": (lowering, "split_run", lambda problem: problem.y_run, "dy: "),
    "run of one pass's weight": (lowering, "one_pass_weight_run", lambda problem, config: 16 // problem.item, "weight: "),
    "alignment": (tensors, "_alignment", lambda t, minor: 16 // t.element_size() if t.stride(minor) == 1 else 1, "x: "),
    "31 bits": (Problem, "is_wide", staticmethod(lambda *sizes: False), "in 32 bits"),
    "forward halo": (lowering, "_forward_axis", without_halo(lowering._forward_axis), "outside the tensor"),
    "run of x": (taps, "x_run", aligned, "x: "),
    "run of dz": (taps, "z_run", aligned, "dz: "),
    "weight gradient halo": (taps, "weight_axis", without_halos(taps.weight_axis), "outside the tensor"),
    "run among channels": (flat, "gathered_run", most, "gathered: "),
    "run of a weight among channels": (flat, "weight_run", most, "weight: "),
    "gradient halo": (lowering, "_gradient_axis", without_halo(lowering._gradient_axis), "outside the tensor"),
}


@pytest.mark.parametrize("what", FALSE)
def test_false_promises_are_found(what, monkeypatch):
    owner, name, instead, said = FALSE[what]
    monkeypatch.setattr(owner, name, instead)
    _, found = promises.main(2 * SOME, seed=5, sought=said)  # some are found once in a thousand problems
    assert any(said in text for text in found)


def test_joined_phases_part_the_rows_of_a_weight(monkeypatch):
    """Of 16 rows that hold 8 phases along w, one after the other, 2 channels lie side by side."""
    config = Config("gather", 16, 16, 16, merge=(False, False, True))
    monkeypatch.setattr(promises, "choose", lambda rng, problem: config)
    last = torch.channels_last_3d
    x, y = (torch.empty(shape, dtype=torch.float16, device="meta") for shape in ((1, 16, 2, 2, 4), (1, 16, 2, 2, 32)))
    w = torch.empty(16, 16, 1, 1, 8, dtype=torch.float16, device="meta", memory_format=last)
    call = promises.Call("forward", x, w, y, None, (1, 1, 8), (0, 0, 0), (1, 1, 1), 1, None)
    assert promises.check(call, random.Random(0)) == ("forward pointers, runs", [])
    monkeypatch.setattr(lowering, "weight_run", most)
    _, false = promises.check(call, random.Random(0))
    assert any("weight: 8 neighbours do not lie side by side" in text for text in false)
