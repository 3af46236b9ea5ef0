"""What a weight gradient that turns what it reads is told, as values, which weight_turns.py makes and kernels/turn_weight.py takes."""

from typing import NamedTuple


class TurnSheet(NamedTuple):
    """What a plane of dz has of one residue along w, or of two neighbours, which are one word: the first place, counted from a patch's, and
    how many."""

    residue: int
    first: int
    places: int


class TurnGroup(NamedTuple):
    """Two tiles of 32 lines of dz, side by side the rows of products: the sheet of each, which 32 of the lines of all taps along h, and how
    far the tap along w shifts them; the first of the products, and how many; and to which sum for the bias each tile is added, -1 for none."""

    sheets: tuple[int, int]
    halves: tuple[int, int]
    offsets: tuple[int, int]
    product: int
    count: int
    adds: tuple[int, int] = (-1, -1)


class TurnProduct(NamedTuple):
    """What the tiles of a product are of: which 32 lines, the taps along w by which each meets x, -1 for none, shift by shift from number
    `shift` on, and which half of words."""

    halves: tuple[int, int]
    taps: tuple[tuple[int, int], ...]
    residues: tuple[int, int] = (0, 0)
    shift: int = 0


class WeightTurn(NamedTuple):
    """What one program of a weight gradient that turns what it reads does, as kernels/turn_weight.py says.

    A patch of high x wide places; `outputs` channels of dz, in output_tiles programs, are rows, `inputs` of x, in input_tiles, columns,
    and `planes` of x are met by each of dz: in `whole` programs along d, and `fewer` in those beyond, 0 where there are none. A sheet has `height` rows of `pitch` places, of which `rows` are copied, `most` at once.
    chunk: bytes of a channel of x that lie side by side. shifts: how far x is shifted against dz along w, once for each. far: what a tile
    reads lies far apart. adds: sums for the bias of 32 lines each.
    """

    high: int
    wide: int
    planes: int
    whole: int
    fewer: int
    outputs: int
    inputs: int
    output_tiles: int
    input_tiles: int
    rows: int
    height: int
    pitch: int
    most: int
    chunk: int
    shifts: tuple[int, ...]
    far: bool
    sheets: tuple[TurnSheet, ...]
    groups: tuple[TurnGroup, ...]
    products: tuple[TurnProduct, ...]
    adds: int = 0
