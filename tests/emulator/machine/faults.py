"""What may go wrong, what is warned of, and the addresses and options that everything shares."""

from dataclasses import dataclass, field

import numpy as np

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SHARED_BASE = 1024  # where dynamic shared memory begins on sm_90; a multiple of every swizzle's period
PARAM_BASE = 0x100  # where parameters lie, in a space of their own
THREADS = 8192  # of a batch, about


class Fault(Exception):
    """What hardware would refuse, or what no correct program does."""


class Deadlock(Fault):
    """Nobody can go on."""


@dataclass
class Options:
    """How a launch is executed.

    copies, products: when cp.async and TMA, and wgmma, are done: "early", at issue, or "late", when somebody waits for
    them. races: warn of what no barrier orders. threads: of a batch of CTAs. strict: warnings are faults.
    """

    copies: str = "late"
    products: str = "late"
    races: bool = False
    threads: int = THREADS
    strict: bool = False


@dataclass
class Warnings:
    """What was warned of in a launch, once for each line of the PTX."""

    found: dict = field(default_factory=dict)  # (what, PTX line) -> [count, text]

    def add(self, what, line, count, text):
        self.found.setdefault((what, line), [0, text])[0] += count

    def __str__(self):
        return "\n".join(f"{count} x {text}" for count, text in self.found.values())


def all_bytes(item: int):
    """An item of so many bytes each of which is 1: what a shadow of flags holds where all are set."""
    return UNSIGNED[item](0x0101010101010101 & 2 ** (8 * item) - 1)
