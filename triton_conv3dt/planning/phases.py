"""What a product writes and sums over, and how its phases are counted."""

from ..problems.problem import Problem


def rows_and_reduction(problem: Problem) -> tuple[int, int]:
    """Channels per group that are written and that are summed over."""
    if problem.direction == "forward":
        return problem.co_group, problem.ci_group
    return problem.ci_group, problem.co_group


def join_factor(problem: Problem, merge) -> int:
    """How many w phases of a channels-first y are stored as one run."""
    axis = problem.axes[2]
    if problem.direction != "forward" or problem.y_layout == "channels_last":
        return 1
    if merge[2]:
        return axis.stride
    return 2 if axis.stride == 2 else 1


def origins_of(problem: Problem, merge) -> tuple[int, int, int]:
    """Where each axis counts its phases from."""
    return tuple(phase_origin(problem, name) if merged else 0 for name, merged in zip("dhw", merge))


def coarse_places(problem: Problem, merge) -> tuple[int, int, int]:
    """Coarse places per axis: of the output's phases forward, of x otherwise."""
    if problem.direction != "forward":
        return problem.in_size
    return tuple(a.steps(o) for a, o in zip(problem.axes, origins_of(problem, merge)))


def phase_origin(problem: Problem, axis: str) -> int:
    """Where merged phases along "d", "h" or "w" are counted from; a channels-first output wants its w runs aligned."""
    return 0 if axis == "w" and problem.y_layout == "channels_first" else problem.axes["dhw".index(axis)].aligned_origin
