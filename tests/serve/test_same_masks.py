"""The official client, unchanged, gets the masks of a session in this process, bit for bit."""

import httpx
import numpy as np
import pytest
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession
from serving import MODEL, Comparison, RunningServer, local_session, play, play_at_once, random_script, server_process


def compare(server: RunningServer, first: int, classes: tuple[int, ...], label: int | None = None) -> None:
    """Three users at once, with 10 interactions each."""
    scripts = [random_script(np.random.default_rng(first + number), 10, classes) for number in range(3)]
    remote = play_at_once(server.url, scripts, at_once=3, key=server.key)
    comparison, session = Comparison(), local_session(MODEL, label)
    for script, seen in zip(scripts, remote):
        session.set_do_autozoom(True)
        comparison.add(script, seen, play(session, script))
    assert not comparison.differing
    assert comparison.steps == 33 and comparison.masks >= 10


def test_masks_of_three_clients_at_once_are_those_of_sessions_here(server):
    compare(server, 0, (1, 2))


def test_one_class_is_the_foreground():
    with server_process(MODEL, "--label", "rim", "--max-image-gb", "0.001") as server:
        assert "Clicks mark the class rim." in server.lines
        compare(server, 10, (1,), label=2)
        with nnInteractiveRemoteInferenceSession(server.url) as session:
            noise = np.random.default_rng(0).integers(0, 255, (1, 300, 200, 200), np.uint8)
            with pytest.raises(httpx.HTTPStatusError, match="413"):
                session.set_image(noise, {"spacing": [1, 1, 1]})
            assert session.original_image_shape is None and session.ping()
        assert server.stop() == 130
    assert server.lines[-1] == "Stopped by Ctrl-C."
