"""What of the library is run as compiled, drawn at random.

A part is a function from (rng, device) to a case: what it is, as a dict that can be printed, and a call that raises
where something is wrong. Operands are small integers, so the truth is exact; what surrounds them is NaN.
"""

from .corpus import corpus
from .interface import interface
from .onepass import onepass
from .problems import configs, random

PARTS = {part.__name__: part for part in (corpus, configs, random, onepass, interface)}
