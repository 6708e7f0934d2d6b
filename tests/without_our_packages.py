"""Run Python code in a new process in which our packages cannot be imported, even if FLaLLM is installed."""

import os
import subprocess
import sys
from pathlib import Path

REFUSE_OUR_PACKAGES = """
import sys

OURS = ("modeling_flallm", "processing", "train_scripts")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OURS:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
for name in OURS:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
"""


def run_without_our_packages(code: str, *arguments: str, folder: Path) -> str:
    """What the code prints; it runs in `folder` with one thread and its own cache of remote code."""
    result = subprocess.run(
        [sys.executable, "-c", REFUSE_OUR_PACKAGES + code, *arguments],
        cwd=folder,
        env={**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
