"""What is asked of processes: whether one lives, and what a command refuses."""

from pathlib import Path

import pytest

from triton_conv3dt import cli


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def refusal(capsys, *arguments) -> str:
    """The message of a command that must be refused for its options."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err
