"""The corpus of the tests in every memory layout, with the config that a call would use."""

from functools import lru_cache

import torch
from cases import CORPUS, layer_classes
from launched import EPILOGUES, check
from layouts import LAYOUTS, RedZone

from ..cases import Skip

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def corpus(rng, device):
    """One of its problems, one direction and layout."""
    case, layout = rng.choice(_cases()), rng.choice(LAYOUTS)
    if 0 in case.shapes.y or 0 in case.shapes.x:
        raise Skip("nothing to compute")
    dtype = rng.choices(DTYPES, (5, 4, 3, 1))[0]
    precision = rng.choice(("tf32", "tf32x3", "ieee")) if dtype is torch.float32 else "tf32"
    direction = rng.choice(("forward", "forward", "grad_input", "grad_weight"))
    epilogue = rng.choice(EPILOGUES) if direction == "forward" else EPILOGUES[3]
    into = direction == "forward" and layout != "expanded" and rng.random() < 0.7

    def call():
        zone = RedZone(case.shapes.y, dtype, layout) if into else None
        check(direction, case, case.tensors(dtype, layout), epilogue, precision, zone and zone.view)
        if zone:
            zone.check()

    return dict(case=str(case), layout=layout, dtype=str(dtype), precision=precision, direction=direction, out=into,
                epilogue=str(epilogue)), call


@lru_cache(maxsize=None)
def _cases():
    return [*CORPUS, *layer_classes()]
