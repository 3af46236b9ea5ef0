"""The record of bounds: what is written is read again, and a record that is no longer true is told."""

import statistics
from dataclasses import replace

import pytest

from fit_issue import RECORDS, recorded, tasks
from triton_conv3dt import cli
from triton_conv3dt.commands.limits import DEVICES
from triton_conv3dt.compiling import limits
from triton_conv3dt.planning import issue, terms
from triton_conv3dt.planning.device import Device
from triton_conv3dt.problems.layers import select

H200 = Device.named("nvidia_h200")
CHOSEN = ["nnunet_iso128_up4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A record of one layer, by the command."""
    folder = tmp_path_factory.mktemp("limits")
    assert cli.main(["limits", "--layers", *CHOSEN, "--device", H200.name, "--output", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def record(folder):
    return limits.read(folder / "nvidia_h200.csv")


def test_a_record_has_every_direction_and_is_read_as_it_was_written(record, tmp_path):
    assert [row.direction for row in record.rows] == ["forward", "grad_input", "grad_weight", "backward"]
    for row in record.rows:
        largest = max(getattr(row, name) for name in limits.TERMS if name != "passes")
        assert row.limit == pytest.approx(largest + row.passes, rel=1e-3) and getattr(row, row.binds) == largest
        assert row.limit >= 1 and row.instructions > 100 and not row.spills
    assert limits.read(limits.write(record, tmp_path / "again.csv")) == record
    assert limits.summary(record)[1][:2] == ("forward", "1")


def test_a_picture_is_drawn(folder):
    pytest.importorskip("matplotlib")
    assert (folder / "limits.png").read_bytes().startswith(b"\x89PNG")


def test_a_record_that_is_no_longer_true_is_told(record):
    found = limits.tasks(H200, select(CHOSEN))
    assert limits.stale(record, found) == []
    assert "digest was 0123" in limits.stale(replace(record, kernels="0123"), found)[0]
    first, *rest = record.rows
    assert limits.stale(replace(record, rows=(replace(first, plan="0123"), *rest)), found) == [
        "nnunet_iso128_up4 forward runs otherwise than recorded"]
    assert limits.stale(replace(record, rows=tuple(rest)), found) == ["nnunet_iso128_up4 forward runs otherwise than recorded"]
    assert len(limits.stale(record, ())) == 4, "what no longer runs"


@pytest.mark.parametrize("device", [device.name for device in DEVICES])
def test_the_record_of_the_project_is_true(device):
    record = limits.read(RECORDS / f"{device}.csv")
    found = limits.stale(record, tasks(device))
    assert record.device == device and not found, \
        f"{found[:3]} and {len(found)} in all: `triton-conv3dt limits` makes the record again"


@pytest.mark.slow
@pytest.mark.parametrize("device", ["nvidia_h200", "nvidia_h100"])  # for which it was fitted
def test_the_estimate_is_near_the_count(device):
    """Right in the middle and within a factor of 1.9 for nine of ten; `tests/support/fit_issue.py` fits it again."""
    ratios = sorted(issue.instructions(plan, terms.trips(plan)) / row.instructions for plan, row in recorded(device))
    near = [ratio for ratio in ratios if 1 / 1.9 < ratio < 1.9]
    assert 0.8 < statistics.median(ratios) < 1.25 and len(near) > 0.9 * len(ratios), (ratios[:9], ratios[-9:])


@pytest.mark.parametrize("text", ["", "\n", "layer,direction\nx,y\n", "# nvidia_h200, triton 3, kernels 0, today\nlayer\nx\n"])
def test_what_is_no_record_is_refused(text, tmp_path):
    path = tmp_path / "nvidia_h200.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="no record of bounds .*triton-conv3dt limits writes one"):
        limits.read(path)


def test_devices_without_a_clock_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["limits", "--device", "nvidia_l4"])
    assert ended.value.code == 2 and "the clock of nvidia_l4 is not known" in capsys.readouterr().err
