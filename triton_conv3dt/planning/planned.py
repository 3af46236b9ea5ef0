"""What runs for a problem on a device, as a value: kernel, config and where it came from, grid, and every launch."""

from dataclasses import dataclass

from ..problems.problem import Problem
from .config import Config
from .constraints import NONE, Constraints
from .device import Device
from .passes import Schedule


@dataclass(frozen=True)
class Plan:
    """What runs for a problem on a device under constraints: the config, where it came from, and every launch in order."""

    problem: Problem
    device: Device
    config: Config
    source: str
    schedule: Schedule
    constraints: Constraints = NONE

    @property
    def steps(self) -> tuple[str, ...]:
        """The launches in words."""
        return tuple(map(str, self.schedule.launches))

    def __str__(self) -> str:
        p, d = self.problem, self.device
        lines = [f"problem   {p}", f"device    {d.name}, capability {d.capability[0]}.{d.capability[1]}, {d.sms} SMs"
                 + f"; its rates are taken to be, by SM, those of {d.rates_of}" * bool(d.rates_of)]
        lines += [f"phases    {name}: {axis.describe()}" for name, axis in zip("dhw", p.axes)]
        lines += [f"epilogue  {p.epilogue}"] if p.direction == "forward" else []
        lines += [f"without   {self.constraints}"] if self.constraints else []
        lines += [f"config    {self.config}", f"source    {self.source}"]
        lines += [f"launch {i}  {step}" for i, step in enumerate(self.steps, 1)]
        lines.append(f"work      {p.flops / 1e9:.3f} GFLOP, {p.bytes / 1e6:.3f} MB moved at least")
        if self.roofline:
            time, bound = self.roofline
            rates = "these" if d.rates_of else "the vendor's"
            lines.append(f"roofline  {time * 1e6:.1f} us by {rates} rates, {bound} bound")
        return "\n".join(lines)

    @property
    def roofline(self) -> tuple[float, str] | None:
        """The least time in seconds, and what bounds it, "memory" or "compute"; None where the rates are not known."""
        p, d = self.problem, self.device
        if not d.bandwidth:
            return None
        memory, matmul = p.bytes / d.bandwidth, p.flops / (d.rate_16bit if p.item == 2 else d.rate_tf32)
        return max(memory, matmul), "memory" if memory >= matmul else "compute"
