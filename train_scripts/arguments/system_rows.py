"""
The systems' rows for help texts: `modeling_flallm/systems.py` alone, as importing the package around it takes seconds.
Who imports `modeling_flallm.systems` later gets the same module.
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
    """What the help of the command that runs a stage says first."""
    system, stage = systems.find_stage(name)
    return system.help_of(stage)
