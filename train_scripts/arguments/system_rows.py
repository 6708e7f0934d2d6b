"""
The systems' rows for help texts: imports `modeling_flallm/systems.py` alone, since importing its package takes seconds.
A later import of `modeling_flallm.systems` returns the same module.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

NAME = "modeling_flallm.systems"
FILE = Path(__file__).resolve().parents[2] / "modeling_flallm" / "systems.py"


def _import_the_rows_alone() -> ModuleType:
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, FILE)
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]


systems = _import_the_rows_alone()


def help_of_stage(name: str) -> str:
    """The first sentence of the help of the command that runs a stage."""
    system, stage = systems.find_stage(name)
    return system.help_of(stage)
