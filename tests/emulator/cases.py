"""Runs a case early and late, watches shared memory and what is written, and notes what really ran."""

import random
from collections import Counter
from dataclasses import replace

from triton.runtime.errors import OutOfResources

from triton_conv3dt import functional
from triton_conv3dt.launching import launch

FORMS = {"wgmma": "wgmma.mma_async", "mma.sync": "mma.sync", "tensor copies": "cp.async.bulk.tensor",
         "cp.async": "cp.async.c", "ldmatrix": "ldmatrix", "stmatrix": "stmatrix"}  # what to look for in the PTX
MODES = (("late", "late"), ("early", "early"), ("early", "late"), ("late", "early"))  # copies, products


class Skip(Exception):
    """A case that says nothing: there is nothing to compute, or not in this way."""


class Failed(AssertionError):
    """A case that went wrong; the message says in which modes, and how."""


class Cases:
    """Runs cases on an emulator, and counts: kernels by name, forms of the PTX, what cases say of themselves."""

    def __init__(self, emulator):
        self.emulator, self.kernels, self.forms, self.said = emulator, Counter(), Counter(), Counter()
        self.done = self.skipped = 0

    def run(self, what: dict, call) -> None:
        """call() in two modes, the second drawn by what it is; nothing may be warned of.

        Raises:
            Failed: and nothing else; what cannot be run is counted as skipped.
        """
        options = self.emulator.options
        try:
            for i, (copies, products) in enumerate((MODES[0], random.Random(str(what)).choice(MODES[1:]))):
                self.emulator.options = replace(options, copies=copies, products=products, races=i == 0)
                self._once(what, call, f"copies {copies}, products {products}")
            self.done += 1
            self.said.update(f"{name} {value}" for name, value in what.items())
        except (Skip, OutOfResources):
            self.skipped += 1
        finally:
            self.emulator.options = options

    def _once(self, what, call, modes):
        self.emulator.launches.clear()
        launch._records.clear()
        functional._calls.clear()
        try:
            call()
            if found := self.emulator.warnings():
                raise AssertionError("warned: " + " | ".join(found))
        except (Skip, OutOfResources):
            raise
        except Exception as error:
            raise Failed(f"{modes}: {what}: {type(error).__name__}: {str(error)[:1500]}") from error
        for one in self.emulator.launches:
            self.kernels[one.name] += 1
            self.forms.update(name for name, text in FORMS.items() if text in one.ptx)
