"""On a GPU: the corpus and the classes of the networks' layers. What the interpreter cannot show: bf16, tensor-core
precisions, asynchronous copies."""

from itertools import product

import pytest
import torch
from cases import CORPUS, layer_classes
from products import products
from tolerances import assert_exact

pytestmark = pytest.mark.gpu
LAYOUTS = ("channels_first", "channels_last", "sliced", "misaligned_channels_last")
KINDS = [(torch.float16, "tf32"), (torch.bfloat16, "tf32"), (torch.float32, "tf32"), (torch.float32, "tf32x3"),
         (torch.float32, "ieee"), (torch.float64, "tf32")]  # dtype, and the precision of fp32
ALWAYS = (("channels_first", KINDS[0]), ("channels_last", KINDS[1]))
IN_TURN = [pair for pair in product(LAYOUTS, KINDS) if pair not in ALWAYS]


def thinned(cases):
    """Each case in what is common and in one of the rest in turn, (case, layout, kind): the whole product would be
    7,400 kernels to compile and not 1,100."""
    for place, case in enumerate(cases):
        for layout, kind in (*ALWAYS, IN_TURN[5 * place % len(IN_TURN)]):  # 5: neighbours differ in layout and in kind
            yield case, layout, kind


@pytest.mark.parametrize("case, layout, kind", [*thinned([*CORPUS, *layer_classes()])],
                         ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else str(value))
def test_integers_come_out_exactly(case, layout, kind):
    dtype, precision = kind
    for actual, exact in products(case, case.tensors(dtype, layout, device="cuda"), precision):
        assert_exact(actual.cpu(), exact)
