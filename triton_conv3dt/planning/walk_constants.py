"""What walks are told, as values: walks.py and weight_walks.py make them, and kernels/walk.py and kernels/walk_weight.py take them."""

from typing import NamedTuple


class Sheet(NamedTuple):
    """Rows along h of one plane, as a walk keeps them: residue h, from place `first` beside the patch, so many; w is residue
    `residue_w`, shifted by `shift`, and so many places further as `reach`. row: where the sheet begins in a plane, and pitch: from
    one row to the next, in rows or, of lines, in 16 bytes."""

    residue: int
    first: int
    rows: int
    residue_w: int
    shift: int
    row: int
    reach: int = 0
    pitch: int = 1


class Run(NamedTuple):
    """Rows of a patch as products read them: of the plane with this residue (by number), from this row on, in a sheet (by number), and
    `shift` places further along w."""

    residue: int
    row: int
    sheet: int = 0
    shift: int = 0


class Product(NamedTuple):
    """One product of a walk: of a run of rows with the weights from this slot on."""

    run: Run
    slot: int


class Walk(NamedTuple):
    """What one program of a walk computes, as planning/walks.py says.

    A patch of high x wide places, `columns` channels of each phase that is a column. channels: of what is summed over, side by
    side in a row, in `blocks` of rows. stages: planes that are kept, `rows` in each (of `residues` along d), of lines 16 bytes. low: the
    lowest shift along d; span: steps along d that add to one place. live: how many phases are columns, by how many steps
    are still to come. slots: the taps of each weight tile, one for each residue whose channels lie side by side, -1
    for zeros. groups: phases (d, h, w) that are summed apart; phases: those that are columns of one product. bundles: how many
    numbers of steps to come are columns of one product, side by side; products: by group, then by bundle. together: weight tiles
    that are fetched at once. turned: what is read lies in any order, has `summed` channels, and TF32 is not rounded yet. run: neighbours
    that are read at once, channels, or places of 16 bits; copied: not by registers, which all else passes by that is turned. early: it is
    loaded ahead of products that it is not for; crowded: no registers keep addresses from plane to plane. twins: groups are written in
    pairs, phases along w.
    abreast: groups that are summed in one turn; runs: what the products of each turn read, in the order in which they do.
    along: a patch is a run of `wide` places, row after row of a plane, that begin so many places one after the other; 0 where it is not.
    second: both residues along w are summed side by side, and the second lies so many places further in its lines; -1 where they are not.
    """

    high: int
    wide: int
    channels: int
    blocks: int
    columns: int
    stages: int
    rows: int
    low: int
    span: int
    live: tuple[int, ...]
    residues: tuple[int, ...]
    sheets: tuple[Sheet, ...]
    slots: tuple[int, ...]
    groups: tuple[tuple[int, int, int], ...]
    phases: tuple[tuple[int, int, int], ...]
    bundles: tuple[int, ...]
    products: tuple[tuple[tuple[Product, ...], ...], ...]
    together: int
    turned: bool = False
    summed: int = 0
    run: int = 1
    copied: bool = False
    early: bool = False
    crowded: bool = False
    twins: bool = False
    abreast: int = 1
    runs: tuple[tuple[Run, ...], ...] = ()
    along: int = 0
    second: int = -1


class WalkedAxis(NamedTuple):
    """How a walking weight gradient walks along one axis: by tap k place i of x meets place stride * i - padding + k of dz."""

    kernel: int
    stride: int
    padding: int


class Fetch(NamedTuple):
    """Rows of dz that a step fetches: residue and shift along h and w, and the first of the rows of a stage that they fill."""

    residue_h: int
    shift_h: int
    residue_w: int
    shift_w: int
    row: int


class WeightProduct(NamedTuple):
    """One tap (h, w) of a walking weight gradient, and the first row of dz that the patch meets by it."""

    row: int
    tap_h: int
    tap_w: int


class WeightWalk(NamedTuple):
    """What one program of a walking weight gradient does, as kernels/walk_weight.py says.

    A patch of high x wide places; `channels` of x of each of `planes` planes are rows, in row_tiles programs, `columns` channels
    of dz columns, in column_tiles. apart: the residues of dz along h are programs of their own; residue_h and shift_h of what
    is fetched, and tap_h, are then added to those of the program. A step has `height` rows of dz, z_bytes, and of each plane x_bytes.
    boxes: what is fetched of dz by patches, rows: by single rows, products: what for.
    """

    high: int
    wide: int
    planes: int
    channels: int
    columns: int
    row_tiles: int
    column_tiles: int
    apart: bool
    height: int
    x_bytes: int
    z_bytes: int
    boxes: tuple[Fetch, ...]
    rows: tuple[Fetch, ...]
    products: tuple[WeightProduct, ...]
