"""What the tests of the network share."""

import sys
from pathlib import Path

import pytest
import torch

# `reference.py` and `ddp_step.py` beside this file are imported by name (pytest's importlib mode adds no folder itself,
# and a spawned process inherits the path)
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def seeded():
    """Random weights and images differ from test to test, not from run to run."""
    torch.manual_seed(0)
