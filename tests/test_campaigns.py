"""Short versions of campaigns that `tests/campaigns` holds."""

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "campaigns" / "kills.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the campaign reads /proc")
def test_kills_cost_nothing():
    command = [sys.executable, KILLS, "-c", "predict", "-n", "2", "--cases", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\n0 faults\n")
