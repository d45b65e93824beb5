"""What the tests of the network share."""

import sys
from pathlib import Path

import pytest
import torch

# the helpers beside this file (`reference`, `sam_files`, `ddp_step`) are imported by name: pytest's importlib mode adds
# no folder itself, and a spawned process inherits this path
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def seeded():
    """Random weights and images differ from test to test, not from run to run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread(request):
    """On these small tensors more threads mostly wait for each other, long so on a busy machine."""
    threads = torch.get_num_threads()
    if not request.node.get_closest_marker("slow"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
