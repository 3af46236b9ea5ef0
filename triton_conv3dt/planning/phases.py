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


def phase_origin(problem: Problem, axis: str) -> int:
    """Where merged phases along "d", "h" or "w" are counted from; a channels-first output wants its w runs aligned."""
    return 0 if axis == "w" and problem.y_layout == "channels_first" else problem.axes["dhw".index(axis)].aligned_origin
