"""Short versions of campaigns that `tests/campaigns` holds."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGNS = Path(__file__).parent / "campaigns"


@pytest.mark.skipif(sys.platform != "linux", reason="they read /proc and limit the size of files")
@pytest.mark.parametrize("command", ["kills.py -c predict -n 2 --cases 2", "full_disk.py -c table -n 3 --limit"])
def test_a_short_campaign_finds_no_fault(command):
    name, *arguments = command.split()
    done = subprocess.run([sys.executable, CAMPAIGNS / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\n0 faults\n")
