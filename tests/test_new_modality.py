"""A modality that the library has never heard of goes through all shared code once its rows are in the lists."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@pytest.mark.slow
def test_it_trains_evaluates_and_translates_with_no_change_to_shared_code(tmp_path):
    run = subprocess.run(
        [sys.executable, str(TESTS / "keypoints_run.py"), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0 and "all of it works" in run.stdout, run.stdout + run.stderr
