"""What is said of transposed convolutions, one row each, as a table to print."""

from dataclasses import dataclass

HEAD = ("name", "layer", "what follows", "fused", "why not more")


@dataclass(frozen=True)
class Row:
    """One transposed convolution: where and what it is, what follows, what of that is fused, and why not the rest."""

    name: str
    layer: str
    follows: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    left: str = ""

    def cells(self) -> tuple[str, ...]:
        return self.name or "(the model)", self.layer, ", ".join(self.follows), ", ".join(self.fused), self.left


class Report(tuple):
    """Rows, which print as a table."""

    def __str__(self) -> str:
        if not self:
            return "no transposed 3-D convolution"
        table = [HEAD, *(row.cells() for row in self)]
        widths = [max(map(len, column)) for column in zip(*table)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table)

    __repr__ = __str__


def shape_class(ci, co, groups, kernel, stride, dilation=(1, 1, 1)) -> str:
    """A layer in words, such as "ci64 co32 k2 s2, kernel = stride"; kernel, stride and dilation are triples."""
    words = [f"ci{ci}", f"co{co}", f"k{_short(kernel)}", f"s{_short(stride)}"]
    words += [f"d{_short(dilation)}"] * any(d != 1 for d in dilation) + [f"g{groups}"] * (groups != 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    if all(map(int.__eq__, reach, stride)):
        kind = "kernel = stride"
    else:
        kind = "gaps" if all(r <= s for r, s in zip(reach, stride)) else "overlapping taps"
    return f"{' '.join(words)}, {'depthwise, ' * (groups == ci and groups > 1)}{kind}"


def _short(triple) -> str:
    return str(triple[0]) if len(set(triple)) == 1 else "x".join(map(str, triple))
