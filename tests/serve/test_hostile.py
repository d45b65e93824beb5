"""Damaged requests, strangers, and clients that leave: a sentence for each, and others notice nothing."""

import threading
import time

import httpx
import numpy as np
import pytest
from hostile import SHAPE, Attack
from nnInteractive.inference.remote import (
    ServerAtCapacityError,
    SessionExpiredError,
    nnInteractiveRemoteInferenceSession,
)
from serving import MODEL, Comparison, local_session, play, random_script, server_process

IMAGE = np.random.default_rng(0).normal(10, 1, (1, *SHAPE)).astype(np.float32)


def connect(server, image: np.ndarray = IMAGE) -> nnInteractiveRemoteInferenceSession:
    session = nnInteractiveRemoteInferenceSession(server.url, api_key=server.key)
    session.set_image(image, {"spacing": [1, 1, 1]})
    session.set_target_buffer(np.zeros(image.shape[1:], np.uint8))
    return session


def wait_for_places(server) -> None:
    """Sessions of earlier tests end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            opened = [nnInteractiveRemoteInferenceSession(server.url, api_key=server.key) for _ in range(3)]
            break
        except ServerAtCapacityError:
            time.sleep(0.1)
    for session in opened:
        session.close()


def test_500_hostile_requests_disturb_nobody(server):
    attack, script = Attack(), random_script(np.random.default_rng(3), 8, (1, 2))
    attack.run(server.url, 50, np.random.default_rng(0), server.key)
    before, remote = server.memory, []

    def work() -> None:
        with nnInteractiveRemoteInferenceSession(server.url, api_key=server.key, read_timeout=300) as session:
            remote.extend(play(session, script))

    user = threading.Thread(target=work)
    user.start()
    attack.run(server.url, 450, np.random.default_rng(1), server.key)
    user.join()
    assert not attack.wrong
    assert len(attack.answers) >= 20  # kinds and statuses
    assert server.memory < 1.05 * before + 10 * 2**20
    comparison = Comparison()
    comparison.add(script, remote, play(local_session(MODEL), script))
    assert not comparison.differing and comparison.steps == 9


def test_only_so_many_sessions(server):
    wait_for_places(server)
    sessions = [connect(server) for _ in range(3)]
    with pytest.raises(ServerAtCapacityError, match="All 3 session"):
        connect(server)
    sessions[0].close()
    sessions[0] = connect(server)
    for session in sessions:
        session.close()


def test_a_session_that_was_given_back_cannot_be_used(server):
    with connect(server) as session:
        token = session._http.headers["X-Lease-Token"]
        assert session.lease_status()["idle_timeout_seconds"] == 600
        assert 590 < session.heartbeat() <= 600
    with connect(server) as thief:
        own, thief._http.headers["X-Lease-Token"] = thief._http.headers["X-Lease-Token"], token
        for use in (thief.undo, thief.heartbeat, thief.lease_status, thief.reset_interactions):
            with pytest.raises(SessionExpiredError, match="Connect again"):
                use()
        thief._http.headers["X-Lease-Token"] = own


@pytest.mark.parametrize("key", ["", "another"])
def test_a_wrong_key_gets_nothing(server, key):
    with pytest.raises(httpx.HTTPStatusError, match="401 Unauthorized"):
        nnInteractiveRemoteInferenceSession(server.url, api_key=key)


def test_mistakes_say_what_kind_they_are(server):
    with nnInteractiveRemoteInferenceSession(server.url, api_key=server.key) as session:
        assert session.ping()
        session.reset_interactions()
        assert not session.undo()
        with pytest.raises(httpx.HTTPStatusError, match="409 Conflict") as caught:
            session.add_point_interaction([1, 1, 1], True)
        assert "no image yet" in caught.value.response.json()["detail"]
        with pytest.raises(httpx.HTTPStatusError, match="422 Unprocessable"):
            session.set_image(np.full_like(IMAGE, np.nan, dtype=np.float32), {"spacing": [1, 1, 1]})
        session.set_image(IMAGE, {"spacing": [1, 1, 1]})
        with pytest.raises(httpx.HTTPStatusError, match="409 Conflict") as caught:
            session.add_point_interaction([1, 1, 1], True)
        assert "set_target_buffer" in caught.value.response.json()["detail"]
        session.set_target_buffer(np.zeros(SHAPE, np.uint8))
        with pytest.raises(httpx.HTTPStatusError, match="422 Unprocessable") as caught:
            session.add_point_interaction([1, 1, 99], True)
        assert "outside the image" in caught.value.response.json()["detail"]
        for buffer, kind in ((np.zeros(SHAPE, complex), "415"), (np.zeros((5, 5, 5)), "422")):
            with pytest.raises(httpx.HTTPStatusError, match=kind):
                session.set_target_buffer(buffer)
        with pytest.raises(httpx.HTTPStatusError, match="404 Not Found"):
            session._post_json("/unknown", {})


def test_a_client_that_leaves_during_its_prediction_harms_nobody(server):
    with connect(server) as session, connect(server) as other:
        expected = connect(server)
        initial = np.zeros(SHAPE, np.uint8)
        initial[6:14, 6:14, 6:14] = 1
        for one in (other, expected, session):
            one.add_initial_seg_interaction(initial)
        for one in (other, expected):
            one.add_point_interaction([10, 9, 11], True)
        session._http.timeout = httpx.Timeout(60, read=0.001)
        with pytest.raises(httpx.ReadTimeout):
            session.add_point_interaction([10, 9, 11], True)
        session._http.timeout = httpx.Timeout(60)
        for one in (other, expected, session):
            one.add_point_interaction([5, 4, 6], True)
        assert (other.target_buffer == expected.target_buffer).all()
        # the first click was predicted all the same, and the answer to the next one holds what it has changed
        assert (session.target_buffer == expected.target_buffer).all() and (session.target_buffer != initial).any()
        assert session.undo() and session.undo() and (session.target_buffer == initial).all()
        expected.close()


def test_ctrl_c_ends_a_prediction():
    rng, outcome = np.random.default_rng(0), []
    with server_process(MODEL) as server:
        session = nnInteractiveRemoteInferenceSession(server.url)
        image = rng.normal(10, 1, (1, 150, 100, 100)).astype(np.float32)
        session.set_image(image, {"spacing": [1, 1, 1]})
        session.set_target_buffer(np.zeros(image.shape[1:], np.uint8))

        def predict() -> None:
            try:
                while True:
                    session.add_point_interaction(rng.uniform(5, 95, 3).tolist(), True)
            except Exception as e:
                outcome.append(e)

        user = threading.Thread(target=predict)
        user.start()
        time.sleep(3.0)
        start = time.perf_counter()
        assert server.stop() == 130
        seconds = time.perf_counter() - start
        user.join()
    assert seconds < 60  # on a busy machine; about 3 otherwise
    assert outcome and not any("Traceback" in line for line in server.lines)
