"""One server for all tests that need nothing special of it."""

from collections.abc import Iterator

import pytest
from serving import MODEL, RunningServer, server_process

KEY = "a key"


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """A server of a tiny model, which wants `server.key`."""
    with server_process(MODEL, NN_INTERACTIVE_API_KEY=KEY) as running:
        running.key = KEY
        yield running
        assert not [line for line in running.lines if "Traceback" in line or "failed" in line]
