"""From a problem to what runs for it: the config that is given, tuned or the default, and the launches that it makes."""

from ..problems.problem import Problem
from . import config as configs
from . import store
from .config import Config
from .constraints import NONE, Constraints
from .device import Device
from .launches import schedule
from .planned import Plan


def plan(problem: Problem, device: Device, config: Config | None = None, constraints: Constraints = NONE) -> Plan:
    """The plan of a problem: a function of problem, device, constraints and the files of tuned configs; the device need
    not be here.

    Raises:
        ValueError: the given config does not fit or may not be used, or none is left, with the reason.
    """
    found = store.Found(config, "given") if config else store.choose(problem, device, constraints)
    config, source = found.config, found.source
    if reason := configs.fits(config, problem, device):
        raise ValueError(f"config {config} does not fit {problem} on {device.name}: {reason}")
    if reason := constraints.refuses(config):
        raise ValueError(f"config {config} may not be used for {problem} on {device.name}: {reason}")
    return Plan(problem, device, config, source, schedule(problem, config), constraints)
