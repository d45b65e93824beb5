"""The official client, unchanged, gets the masks of a session in this process, bit for bit."""

import numpy as np
import pytest
from serving import MODEL, Comparison, local_session, play, play_at_once, random_script, server_process


@pytest.mark.parametrize(("options", "label", "classes"), [((), None, (1, 2)), (("--label", "rim"), 2, (1,))])
def test_masks_of_three_clients_at_once_are_those_of_sessions_here(options, label, classes):
    scripts = [random_script(np.random.default_rng(seed), 10, classes) for seed in range(3)]
    with server_process(MODEL, *options) as server:
        remote = play_at_once(server.url, scripts, at_once=3)
    comparison, session = Comparison(), local_session(MODEL, label)
    for script, seen in zip(scripts, remote):
        session.set_do_autozoom(True)
        comparison.add(script, seen, play(session, script))
    assert not comparison.differing
    assert comparison.steps == 33 and comparison.masks >= 5
    assert not any("Traceback" in line or "failed" in line for line in server.lines)
