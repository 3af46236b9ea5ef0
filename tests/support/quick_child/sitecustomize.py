"""Python imports this at its start where this folder is in PYTHONPATH: a command that a test runs interprets kernels as
quickly as the test itself. Triton is left to the command to import, which says first whether it is to interpret."""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

INTERPRETER = "triton.runtime.interpreter"


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != INTERPRETER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_install(module):
            load(module)
            helper = Path(__file__).parents[1] / "quick_interpreter.py"
            found = importlib.util.spec_from_file_location("quick_interpreter", helper)
            quick = importlib.util.module_from_spec(found)
            found.loader.exec_module(quick)
            quick.install()

        spec.loader.exec_module = load_and_install
        return spec


sys.meta_path.insert(0, Finder())
