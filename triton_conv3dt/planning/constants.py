"""What specialises a kernel, as named tuples of constants: built here in plain integers, read by field in kernels/."""

from typing import NamedTuple


class AxisConstants(NamedTuple):
    """How a kernel walks along one axis of a layer; the numbers come from geometry.Axis, the derivation is there.

    A coarse place t, phase r and step j write the place out_step * t + r - origin and gather in_step * t + offset + j * move
    through tap first + j * tap_step (+ r where phases are merged or the gathered tensor is split). Where taps is -1, taps,
    first and offset depend on the phase, and are computed from residue, common, inverse and dilation.
    """

    out_step: int
    origin: int
    in_step: int
    move: int
    kernel: int
    tap_step: int
    taps: int
    first: int
    offset: int
    residue: int = 0  # q = r + residue
    common: int = 1
    inverse: int = 0
    dilation: int = 1
    merged: int = 1  # phases of this axis that are rows of one product
    phases: int = 1  # phases of this axis that are programs of their own
    guard: bool = False  # phases are merged or the gathered tensor is split, and a tap may not exist: its weight is zero
    edge: bool = False  # written places may fall outside
    halo: bool = False  # gathered places may fall outside
    flat: int = 1  # taps of this axis that are summed over beside the channels, instead of step by step


class Shifts(NamedTuple):
    """How a weight gradient reads x or dz along one axis: shift i of position t is the place step * t + first + i * move. Of a
    copy that lies residue after residue, step is 1, and a shift counts places as they were before."""

    count: int
    step: int
    first: int
    move: int
    halo: bool = False  # places may fall outside
    edge: bool = False  # boxes may reach beyond the last position
    residues: int = 1  # of a copy, that lie apart
    sure: tuple[int, int] = (0, 0)  # from which shift to before which no place is outside, whatever the halo

    @property
    def doubtful(self) -> int:
        """How many shifts may leave the tensor: each is a bit of what masks say."""
        return self.halo * (self.count - self.sure[1] + self.sure[0])


class WeightAxis(NamedTuple):
    """How a weight gradient walks along one axis; planning/taps.py derives the numbers.

    Shift i of x (a row) meets shift j of dz (a column, or a program) in tap tap_first + i * tap_row + j * tap_column.
    """

    kernel: int
    x: Shifts
    z: Shifts
    programs: int  # shifts of dz that are programs of their own, each with one column
    tap_first: int
    tap_row: int
    tap_column: int
    guard: bool = False  # a tap may not exist
    together: int = 1  # shifts of x that meet the same taps: each leaves a part of its own


class WeightPair(NamedTuple):
    """What a cluster of programs computes of a weight gradient, as kernels/pair_weight.py says: m rows and n columns, by boxes (d, h, w) of
    positions, of which so many stages are kept, each with so many bytes in the shared memory of a program. halved: for each bit of a
    program's number, whether of rows (0) or of columns (1) each has half, that is of the channels of every shift in a chunk. channels:
    so many, of rows and of columns. x_chunks, z_chunks: in which rows and columns are fetched. apart: residues of dz along w lie apart,
    in a copy. split: so many of its columns are residues of one line, which are parted in registers. flat: x and dz are read as planes
    whose places follow each other. x_runs, z_runs: runs along w that are fetched at once, of x and of dz."""

    m: int
    n: int
    box: tuple[int, int, int]
    stages: int
    bytes: int
    halved: tuple[int, ...]
    channels: tuple[int, int]
    x_chunks: int
    z_chunks: int
    apart: bool
    split: int
    flat: bool
    x_runs: int
    z_runs: int


class CopiedAxis(NamedTuple):
    """One axis of a copy that a weight gradient reads: places `first` up to first + count of x or dz, residue after residue, each
    of which begins at a multiple of run."""

    first: int
    count: int
    residues: int
    run: int

    @property
    def places(self) -> int:
        """From one residue to the next."""
        return -(-self.count // self.residues // self.run) * self.run

    @property
    def size(self) -> int:
        """In memory: the last residue may be shorter than others."""
        last = min(self.residues, self.count) - 1
        return last * self.places + -(-(self.count - last) // self.residues // self.run) * self.run


class Memory(NamedTuple):
    """How a tensor lies in memory and is read.

    last: its channels lie side by side. run: neighbouring elements that may be moved at once, along channels where last, else
    along w. reading: "pointers", or the tensor descriptor, as kernels/gather.py explains.
    """

    last: bool
    run: int
    reading: str = "pointers"


class WeightMemory(NamedTuple):
    """How the weight lies in memory. minor: what lies side by side, "row", "red" (what is summed over) or "tap". run: so many. reading:
    as a Memory's."""

    minor: str
    run: int
    reading: str = "pointers"


class Band(NamedTuple):
    """Rows along h that a step of a cluster fetches: those of this residue, from place `first` beside the box on, `halo` more than it has.
    taps: at which of these rows what a tap reads begins, and the tap."""

    residue: int
    first: int
    halo: int
    taps: tuple[tuple[int, int], ...]


class Tile(NamedTuple):
    """What one program of a gather or weight gradient computes.

    m, n, k: rows, columns and reduction of a product. split: neighbours along w of the gathered tensor that are read as one run
    and split after the load. join: w phases of the output that are written as one run. phase_minor: rows count (channel,
    phase) instead of (phase, channel). box: the positions are a box (d, h, w) of n (of k: weight gradient) instead of
    neighbours in flat order. together: phases of a channel in the lines of a tile whose statistics are added up there. shares:
    programs among which the steps of a tile are parted. bands: what steps fetch, each for all of its taps along h, where there is a halo.
    turned: in which order gathered runs are read beside those of other channels, where they go by registers (kernels/turned.py).
    """

    m: int
    n: int
    k: int
    stages: int
    split: int = 1
    join: int = 1
    phase_minor: bool = False
    box: tuple[int, int, int] | None = None
    together: int = 1
    shares: int = 1
    bands: tuple[Band, ...] = ()
    turned: tuple[int, int, int] | None = None


class Dot(NamedTuple):
    """How fp32 is multiplied: the precision, as tl.dot names it, and whether operands are rounded to TF32 in registers: both or
    neither. Were it the first alone, Triton would write its registers for the next step while wgmma reads them (triton#9433);
    with both it waits for every product."""

    precision: str
    round: bool = False


class Lanes(NamedTuple):
    """What one program computes without tensor cores: the places of a box (d, h, w) in so many channels are lanes in one row,
    channels fastest where last. Each lane has `lines` neighbours along h and `columns` along w, with which a program's places
    have these sides, and `shared` neighbouring channels that read the same (of a weight gradient: input channels). join of what
    a lane writes are neighbours in memory, and written together.
    """

    channels: int
    shared: int
    lines: int
    columns: int
    box: tuple[int, int, int]
    sides: tuple[int, int, int]
    last: bool
    join: int = 1


class Reads(NamedTuple):
    """What one lane reads along h or w, and what for: the place offset[i] beside its own serves the uses start[i] up to
    start[i + 1], each a line (a place that is written, then its phase; `lines` in all) and a tap, of `taps`. inside[i]: it is
    a place of the tensor in every box. Where the axis is not unrolled, its taps and phases are counted elsewhere, and there is
    the one tap 0.
    """

    offset: tuple[int, ...]
    inside: tuple[bool, ...]
    start: tuple[int, ...]
    line: tuple[int, ...]
    tap: tuple[int, ...]
    lines: int
    taps: int
    unrolled: bool
