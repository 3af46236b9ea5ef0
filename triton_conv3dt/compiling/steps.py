"""The bound of a whole training step of a layer: its forward and whatever computes its gradients, one after another."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from ..planning import gradients, search, store
from ..planning.config import sums_bias
from ..planning.constraints import Constraints
from ..planning.device import Device
from ..problems import case
from ..problems.problem import BACKWARD, Problem
from .survey import Kernel, Task

LAUNCHES = {"forward": "forward", "grad_input": "input", "grad_weight": "weight", BACKWARD: "one pass"}


@dataclass(frozen=True)
class Step:
    """The compiled products of one step, forward first. Between them and those of the gradients, where these are two, dz is made, and
    summed for the bias on the way, as planning/gradients.py says."""

    kernels: tuple[Kernel, ...]

    @property
    def failure(self) -> str | None:
        """Why the step has no bound: a kernel does not compile, or its device's clock is not known."""
        return next((k.failure or "no bound is known" for k in self.kernels if k.failure or k.bound is None), None)

    @property
    def least(self) -> float:
        """Seconds in which every tensor is moved once forward and once backward, or multiplied: the roofline of the step."""
        forward, device = self.kernels[0].task.problem, self.kernels[0].task.device
        whole = gradients.of(forward)
        rate = device.rate_16bit if forward.item == 2 else device.rate_tf32
        return max((forward.bytes + whole.bytes) / device.bandwidth, (forward.flops + whole.flops) / rate)

    @property
    def between(self) -> list[tuple[str, float]]:
        """What a pass makes of dy beside the products, "dz" or "bias" alone, and the seconds that it takes at least; or nothing."""
        forward, device, task = self.kernels[0].task.problem, self.kernels[0].task.device, self.kernels[-1].task
        bias, activation, last = forward.epilogue.bias, forward.epilogue.activation is not None, task.problem
        written = activation or last.y_layout != forward.y_layout
        if last.direction == BACKWARD or not (written or bias and not sums_bias(task.config, last)):
            return []
        moved = (1 + activation + written) * forward.item * forward.n * forward.co * prod(forward.out_size)
        return [("dz" if written else "bias", moved / device.bandwidth)]

    @property
    def seconds(self) -> list[float]:
        """The bound of each kernel, and of what is between them; passes included."""
        return [k.bound.limit * k.bound.roofline for k in self.kernels] + [seconds for _, seconds in self.between]

    @property
    def limit(self) -> float:
        """The bound of the step, over its roofline."""
        return sum(self.seconds) / self.least

    def as_json(self) -> dict:
        """In JSON's types."""
        task = self.kernels[0].task
        said = {"name": task.name, "case": case.format(task.problem), "device": task.device.name, "failure": self.failure,
                "kernels": [k.as_json() for k in self.kernels]}
        return said if self.failure else said | {"limit": self.limit, "roofline_seconds": self.least}


def tasks(name: str, forward: Problem, device: Device, without: Constraints, default: bool) -> list[Task]:
    """What a step of a layer compiles, by its forward problem. default: whatever has been tuned."""
    whole = gradients.of(forward)
    if config := search.one_pass(whole, device, without):
        problems = [forward]
    else:
        last = gradients.channels_last(whole, device, without)
        problems = [forward, *gradients.products(gradients.in_channels_last(whole) if last else whole)]
    found = [store.choose(p, device, without) if not default else store.Found(search.default(p, device, without), "default")
             for p in problems]
    made = [Task(name, p, device, one.config, one.source) for p, one in zip(problems, found)]
    return made + [Task(name, whole, device, config, "default")] * bool(config)


def steps(kernels: Iterable[Kernel]) -> Iterator[Step]:
    """The steps of kernels that come as `tasks` has them, each as soon as it is complete."""
    found: list[Kernel] = []
    for kernel in kernels:
        found.append(kernel)
        if kernel.task.problem.direction in ("grad_weight", BACKWARD):
            yield Step(tuple(found))
            found = []


def line(step: Step) -> str:
    """A step in words."""
    task = step.kernels[0].task
    who = f"{task.device.name}  {task.name or case.format(task.problem)}"
    if step.failure:
        return f"{who}  FAILED {step.failure.splitlines()[0]}"
    names = [LAUNCHES[k.task.problem.direction] for k in step.kernels] + [name for name, _ in step.between]
    parts = ", ".join(f"{name} {seconds / step.least:.2f}" for name, seconds in zip(names, step.seconds))
    return f"{who}  {step.limit:.2f}x the roofline at best: {parts}"
