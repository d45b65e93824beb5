"""SessionPool: leases that end, one user of a session at a time, one device for all, what is embedded ahead."""

import threading
import time

import pytest

from sam3d_nnunet.serve import pool as module
from sam3d_nnunet.serve.pool import LeaseGone, PoolClosed, PoolFull, PoolOptions, SessionPool


class FakeSession:
    """Notes what is done with it."""

    def __init__(self) -> None:
        self.closed = 0
        self.ahead: list = []
        self.cancelled = False

    def close(self) -> None:
        self.closed += 1

    def embed_ahead(self, center, cancelled) -> bool:
        self.ahead.append(center)
        deadline = time.monotonic() + 5
        while not cancelled() and time.monotonic() < deadline and center == "long":
            time.sleep(0.005)
        self.cancelled = cancelled()
        return not self.cancelled


@pytest.fixture
def pool():
    pool = SessionPool(FakeSession, PoolOptions(sessions=2, idle_timeout=100, liveness_timeout=10))
    yield pool
    pool.close()
    assert pool.wait(5)


@pytest.fixture
def clock(monkeypatch):
    """A clock of the pool that stands still; `clock[0]` is its time."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def wait_for(condition) -> None:
    deadline = time.perf_counter() + 10
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.005)


def test_there_are_as_many_sessions_as_asked_for(pool):
    first, second = pool.claim(), pool.claim()
    assert first != second and pool.taken == 2
    with pytest.raises(PoolFull, match="All 2 session"):
        pool.claim()
    assert pool.release(first) and not pool.release(first)
    pool.claim()


@pytest.mark.parametrize("token", [None, "", "x", "../x"])
def test_nobody_uses_a_session_without_its_token(pool, token):
    pool.claim()
    for ask in (pool.lease, pool.remaining, lambda token: pool.use(token).__enter__()):
        with pytest.raises(LeaseGone, match="Connect again"):
            ask(token)
    assert not pool.release(token)


def test_a_session_ends_when_its_user_does_nothing(pool, clock):
    token = pool.claim()
    for _ in range(19):
        clock[0] += 5
        pool.lease(token)  # heartbeats don't count
    assert pool.remaining(token) == pytest.approx(5)
    with pool.use(token) as session:
        pass
    assert pool.remaining(token) == pytest.approx(100)
    for _ in range(21):
        clock[0] += 5
        with pool._mutex:
            pool._leases[token].seen_at = clock[0]
    with pytest.raises(LeaseGone):
        pool.lease(token)
    assert session.closed == 1 and pool.taken == 0


def test_a_session_ends_when_its_client_is_gone(pool, clock):
    token = pool.claim()
    clock[0] += 9
    pool.lease(token)
    clock[0] += 9
    pool.lease(token)
    clock[0] += 11
    pool.sweep()
    assert pool.taken == 0


def test_a_session_in_use_does_not_end(pool, clock):
    token = pool.claim()
    with pool.use(token) as session:
        clock[0] += 1000
        pool.sweep()
        assert pool.taken == 1
    assert pool.remaining(token) == pytest.approx(100) and not session.closed


def test_a_session_whose_request_is_still_arriving_does_not_end(pool, clock):
    token = pool.claim()
    with pool.hold(token):
        clock[0] += 1000
        pool.sweep()
        assert pool.taken == 1
    assert pool.remaining(token) == pytest.approx(100)
    clock[0] += 1000
    with pytest.raises(LeaseGone), pool.hold(token):
        pass


def test_a_session_that_is_released_in_use_closes_after_that(pool):
    token = pool.claim()
    with pool.use(token) as session:
        pool.release(token)
        assert not session.closed
        with pytest.raises(LeaseGone):
            pool.lease(token)
    assert session.closed == 1


def test_one_user_of_a_session_at_a_time(pool):
    token, inside = pool.claim(), []

    def work() -> None:
        with pool.use(token) as session:
            inside.append(session)
            assert len(inside) == 1
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not inside


def test_the_device_does_one_thing_after_the_other(pool):
    running, order = [], []

    def work(number: int) -> int:
        running.append(number)
        assert running == [number]
        time.sleep(0.005)
        running.pop()
        order.append(threading.current_thread().name)
        return number

    results = []
    threads = [threading.Thread(target=lambda n=n: results.append(pool.on_device(lambda: work(n)))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(6)) and set(order) == {"device"}


def test_errors_on_the_device_are_those_of_the_work(pool):
    with pytest.raises(ZeroDivisionError):
        pool.on_device(lambda: 1 / 0)
    assert pool.on_device(lambda: 5) == 5


def test_windows_are_embedded_ahead_when_nothing_else_is_to_do(pool):
    token = pool.claim()
    pool.embed_ahead(token, (1, 2, 3))
    with pool.use(token) as session:
        pass
    wait_for(lambda: session.ahead == [(1, 2, 3)])
    pool.embed_ahead("unknown", (1, 2, 3))


def test_what_was_stopped_is_embedded_later(pool):
    token = pool.claim()
    with pool.use(token) as session:
        pool.embed_ahead(token, "long")
    for count in (1, 2, 3):
        wait_for(lambda count=count: len(session.ahead) == count)
        with pool.use(token):
            if count == 3:
                pool.embed_ahead(token, "other")
    wait_for(lambda: len(session.ahead) == 4)
    assert session.ahead == ["long", "long", "long", "other"]


def test_the_device_never_waits_for_a_user(pool):
    """Who may wait for the device: both would wait for ever."""
    token = pool.claim()
    lease = pool.lease(token)
    with lease.lock:  # a click that has just begun
        pool.embed_ahead(token, (1, 2, 3))
        time.sleep(3 * module.PAUSE)
        assert pool.on_device(lambda: 5) == 5 and not lease.session.ahead
    wait_for(lambda: lease.session.ahead == [(1, 2, 3)])


@pytest.mark.parametrize("by", ["its user", "another user", "its end"])
def test_embedding_ahead_stops_for_others(pool, by):
    token = pool.claim()
    with pool.use(token) as session:
        pool.embed_ahead(token, "long")
    wait_for(lambda: session.ahead)
    start = time.perf_counter()
    if by == "its user":
        with pool.use(token):
            pass
    elif by == "another user":
        pool.on_device(lambda: None)
    else:
        pool.release(token)
        wait_for(lambda: session.closed)
    assert time.perf_counter() - start < 2
    wait_for(lambda: session.cancelled)


def test_closing_frees_those_who_wait():
    pool = SessionPool(FakeSession)
    token, found, begun = pool.claim(), [], threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.5)

    def ask() -> None:
        try:
            pool.on_device(work)
        except PoolClosed as e:
            found.append(e)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    start = time.perf_counter()
    pool.close()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and time.perf_counter() - start < 0.4
    with pytest.raises(PoolClosed):
        pool.claim()
    with pytest.raises(LeaseGone):
        pool.lease(token)
    with pytest.raises(PoolClosed):
        pool.on_device(lambda: None)
    assert pool.wait(5)
