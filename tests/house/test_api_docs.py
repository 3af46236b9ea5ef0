"""docs/api.md says what the docstrings say."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
generate = runpy.run_path(str(DOCS / "generate_api.py"))
DOCSTRING = """The layer, with what follows it:

        activation(y) * 2

    Of any
    order.

    Args:
        x, w: [N, CI],
            or without N: both are taken.
        pair: (a, b).

    Returns:
        [N, CO]: two
        lines of it.

    Raises:
        ValueError: none of "a" or "b".
    """
MARKDOWN = """The layer, with what follows it:

```text
activation(y) * 2
```

Of any order.

**Args**

- `x`, `w`: [N, CI], or without N: both are taken.
- `pair`: (a, b).

**Returns**

- [N, CO]: two lines of it.

**Raises**

- `ValueError`: none of "a" or "b"."""


def test_the_page_is_up_to_date():
    assert (DOCS / "api.md").read_text(encoding="utf-8") == generate["page"](), "docs/api.md is stale: run `make docs`"


def test_a_docstring_becomes_lists():
    assert generate["markdown"](DOCSTRING) == MARKDOWN


def test_a_signature_is_the_sources():
    def layer(self, input, size=(1, 1), *, name: str = "a", then=None, **kwargs) -> list[str]:
        pass

    assert generate["signature"]("layer", layer) == """```python
layer(input, size=(1, 1), *, name: str="a", then=None, **kwargs) -> list[str]
```"""


def test_every_public_name_is_there():
    names = {name.removeprefix("triton_conv3dt.") for name, _ in generate["public_names"]()}
    assert {"conv_transpose3d", "conv_transpose3d_sized", "conv_transpose3d_norm", "nn.ConvTranspose3d",
            "nn.LazyConvTranspose3d", "nn.convert", "nn.revert", "nn.report", "fusing.backend", "fusing.report", "fusing.clear", "distributed.conv_transpose3d",
            "distributed.traffic",
            "tf.Conv3DTranspose", "tf.conv3d_transpose", "tf.load_tf_weights", "tf.from_torch", "tf.to_torch"} == names
