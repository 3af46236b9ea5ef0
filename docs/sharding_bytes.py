"""Write the table of docs/sharding.md, how many bytes travel between ranks: `python docs/sharding_bytes.py`."""

from pathlib import Path

from triton_conv3dt.distributed import traffic

PAGE = Path(__file__).parent / "sharding.md"
BEGIN, END = "<!-- bytes: begin -->", "<!-- bytes: end -->"
VOLUME = 1024, 256, 256
MESHES = ((2,), (8,), (64,), (256,), (1024,), (32, 32), (16, 8, 8))
LAYERS = (  # name, channels in and out, and the layer
    ("k2 s2", 64, 32, dict(kernel=2, stride=2)),
    ("k3 s1 p1", 32, 32, dict(kernel=3, padding=1)),
    ("k3 s2 p1 op1", 64, 32, dict(kernel=3, stride=2, padding=1, output_padding=1)),
    ("k4 s2 p1", 64, 32, dict(kernel=4, stride=2, padding=1)),
    ("k5 s1 p2", 32, 32, dict(kernel=5, padding=2)))


def table() -> str:
    head = ["layer, channels", *("×".join(map(str, mesh)) + f": {'dhw'[:len(mesh)]}" for mesh in MESHES)]
    rows = [head, ["---"] * len(head)]
    for name, ci, co, layer in LAYERS:
        numbers = dict(layer)
        kernel = numbers.pop("kernel")
        found = [traffic((1, ci, *VOLUME), (ci, co, *[kernel] * 3), mesh, range(2, 2 + len(mesh)), **numbers)
                 for mesh in MESHES]
        halos = (f"{size(t.halo)}, {t.halo / t.shard:.1%}" if t.halo else "0" for t in found)
        rows.append([f"{name}, {ci} to {co}", *halos])
        rows.append(["its weight's gradient", *(size(t.weight) for t in found)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print("docs/sharding.md has been written.")
