"""Reports from recorded data: every number in a table was recorded, or follows from those by division or sum."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from measured import H200, Answers, Named
from triton_conv3dt import cli
from triton_conv3dt.measuring import bench, records, report, selection
from triton_conv3dt.measuring.journal import Journal
from triton_conv3dt.measuring.selection import CUDNN, CUDNN_LAST, JAX, MATMUL, OURS, PEERS
from triton_conv3dt.problems.layers import select
from triton_conv3dt.worker import Failure

ROOT = Path(__file__).parents[2]
FACTS = {"command": "triton-conv3dt bench --layers nnunet", "date": "2026-01-01 00:00 UTC", "torch": "2.11.0",
         "driver": "580.1", "reported": "NVIDIA H200"}
TIMES = {OURS: 80.0, CUDNN: 160.0, CUDNN_LAST: 120.0, MATMUL: 90.0, "torch.compile": 110.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two networks, measured by a worker that reads from a table; JAX is not there and one peer fails."""
    folder = tmp_path_factory.mktemp("bench")
    journal = Journal(folder / "bench.jsonl")
    checks = {JAX: {"outcome": "unavailable", "reason": "JAX is not installed"},
              "torch.compile": Failure("error", "a | b\nc")}
    settings = selection.settings(select(["nnunet", "mvsnet"]))[:40]
    bench.Bench(H200, journal, Answers(checks, TIMES), Named(), known={}).run(settings, PEERS, FACTS)
    records.write(journal, folder)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return records.load(folder)


def test_lines_compare_with_the_best_cudnn(results):
    [one] = results
    assert one.device == "nvidia_h200" and len(one.lines) == 40
    for line in one.lines:
        assert (line.ours, line.best_cudnn, line.speedup) == (80.0, 120.0, 1.5)
        assert line.time(JAX) is None and line.time(OURS, kind="warm") == 70.0
        assert line.roofline_share == line.setting["roofline_us"] / 80.0


def test_networks_are_sums_of_layers(results):
    for name, direction, count, ours, theirs in records.networks(results[0].lines):
        mine = [line for line in results[0].lines
                if (line.setting["network"], line.setting["direction"]) == (name, direction)]
        assert len(mine) == count and (ours, theirs) == (80.0 * count, 120.0 * count)
    names = {row[0] for row in records.networks(results[0].lines)}
    assert names == {line.setting["network"] for line in results[0].lines} and len(names) > 1


def test_the_report_is_markdown_with_pictures(folder, results, tmp_path):
    written = report.write(results, tmp_path)
    assert [path.name for path in written] == ["report.md", "roofline.png", "speedup.png"]
    text = written[0].read_text()
    for fact in ("NVIDIA H200", "driver 580.1", "SM 1980 MHz (of 1980)", "copy 4.00 TB/s", "float16 600",
                 "float32 (tf32) 300",
                 "`triton-conv3dt bench --layers nnunet`", "![roofline](roofline.png)", "### What failed", "a \\| b c",
                 "1.50"):
        assert fact in text, fact
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 6
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, "every row is as long as its head"
    for picture in written[1:]:
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        image = pytest.importorskip("matplotlib.image").imread(picture)
        assert image.shape[0] > 300 and image.shape[1] > 600 and image[..., :3].std() > 0.05, "it shows something"


def test_the_readme_gets_what_stands_between_its_markers(folder, results, tmp_path):
    report.write(results, tmp_path / "new" if (tmp_path / "new").mkdir() else tmp_path / "new")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\nbefore\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n")
    for _ in range(2):
        report.update_readme(readme, results, tmp_path / "new")
        text = readme.read_text()
        assert text.startswith(f"# Title\n\nbefore\n\n{report.BEGIN}\n") and text.endswith(f"{report.END}\n\nafter\n")
        assert "old" not in text and "1.50" in text and "![roofline](new/roofline.png)" in text
        assert "(new/report.md)" in text and text.count("### nvidia_h200") == 1
    for broken in ("no markers", f"{report.BEGIN}", f"{report.END}{report.BEGIN}", 2 * f"{report.BEGIN}{report.END}"):
        readme.write_text(broken)
        with pytest.raises(ValueError, match="needs the lines"):
            report.update_readme(readme, results, folder)
        assert readme.read_text() == broken


def test_the_readme_of_this_repository_has_the_markers():
    text = (ROOT / "README.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_several_devices_have_a_section_and_pictures_each(folder, tmp_path):
    content = json.loads((folder / "bench.json").read_text())
    other = json.loads(json.dumps(content).replace("nvidia_h200", "nvidia_l4"))
    both = {"schema": records.SCHEMA, "sessions": content["sessions"] + other["sessions"],
            "rows": content["rows"] + other["rows"][:6]}
    (tmp_path / "bench.json").write_text(json.dumps(both))
    written = report.write(records.load(tmp_path), tmp_path)
    assert [path.name for path in written] == ["report.md", "roofline.nvidia_h200.png", "speedup.nvidia_h200.png",
                                               "roofline.nvidia_l4.png", "speedup.nvidia_l4.png"]
    text = written[0].read_text()
    assert text.index("## nvidia_h200") < text.index("## nvidia_l4")


def test_without_matplotlib_the_tables_remain(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert [path.name for path in report.write(results, tmp_path)] == ["report.md"]
    assert "![" not in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("content, said", [
    ("{", "is not what `bench` writes"), ("[]", "is not what `bench` writes"), ('{"schema": 99}', "of a later version"),
    ('{"schema": 1, "sessions": [], "rows": []}', "has no measurements"), ("\0\1", "is not what `bench` writes"),
    ('{"schema": 1, "sessions": [], "rows": [{"device": "x"}]}', "is not what `bench` writes")])
def test_other_files_are_refused(tmp_path, capsys, content, said):
    (tmp_path / "bench.json").write_text(content)
    assert cli.main(["report", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert said in shown and str(tmp_path / "bench.json") in shown
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"], "nothing was written"


def test_the_command_needs_neither_torch_nor_a_gpu(folder, tmp_path):
    script = ("import sys\nfrom triton_conv3dt.cli import main\n"
              f"code = main(['report', {str(folder)!r}, '--output', {str(tmp_path)!r}])\n"
              "assert not {'torch', 'triton'} & set(sys.modules)\nsys.exit(code)")
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "report.md").exists() and "report.md" in shown.stdout and "\x1b" not in shown.stdout


def test_a_missing_folder_and_one_that_cannot_be_written(capsys, folder, tmp_path):
    assert cli.main(["report", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["report", str(folder), "--output", str(tmp_path / "file")]) == 1
    assert "error: " in capsys.readouterr().err
