"""The sessions that clients hold, and the one device on which they take turns.

A client claims a session and gets a token. All sessions share one model and one budget of embeddings. A session that
nobody uses any more ends by itself, so that others can have its place.

Two rules keep sessions apart. Whoever uses a session holds its lock (`SessionPool.use`). Whatever runs the network runs
on one thread (`SessionPool.on_device`), in the order in which it was asked for. That thread also embeds windows ahead
when there is nothing else to do.
"""

import logging
import queue
import secrets
import threading
import time
from asyncio import Lock
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.prediction.session import SAM3DSession

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE = 0.2  # seconds without work after which windows are embedded ahead


class LeaseGone(SAM3DError):
    """There is no session for this token: it never existed, was given back, or has expired."""

    status = 410  # of HTTP


class PoolFull(SAM3DError):
    """All sessions are taken."""

    status = 503


class PoolClosed(SAM3DError):
    """The server is stopping."""

    status = 503


@dataclass(frozen=True)
class PoolOptions:
    """How many sessions there are, and when they end.

    Attributes:
        sessions: that clients can hold at the same time.
        idle_timeout: seconds without an action of the user after which a session ends.
        liveness_timeout: seconds without any sign of the client (clients send one every few seconds) after which a
            session ends.
    """

    sessions: int = 3
    idle_timeout: float = 600.0
    liveness_timeout: float = 60.0


@dataclass(eq=False)
class Lease:
    """A session that a client holds.

    Attributes:
        session: of the client.
        turn: requests of one client are answered one after the other; the event loop waits here, not a thread.
        waiting: number of requests at `turn`, the current one included.
    """

    session: SAM3DSession
    turn: Lock = field(default_factory=Lock)
    waiting: int = 0
    # what follows belongs to the pool
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0  # requests that are being received or answered, and the device while it embeds ahead
    gone: bool = False
    active_at: float = field(default_factory=lambda: time.monotonic())
    seen_at: float = field(default_factory=lambda: time.monotonic())
    ahead: tuple[Sequence[float] | None] | None = None  # the place to embed, in a tuple: None is the image's centre


class SessionPool:
    """Sessions of one model, leased to clients."""

    def __init__(self, make_session: Callable[[], SAM3DSession], options: PoolOptions | None = None) -> None:
        """
        Args:
            make_session: makes a session that has its model; called for each claim, and once now.
            options: number of sessions, and when they end.
        """
        self.options = options or PoolOptions()
        self.example = make_session()  # has no image, and tells what all sessions can do
        self._make_session = make_session
        self._leases: dict[str, Lease] = {}
        self._mutex = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._running: Future | None = None
        # ends with the process: a prediction can't be interrupted
        self._device = threading.Thread(target=self._run_jobs, name="device", daemon=True)
        self._device.start()

    # --- leases ---

    def claim(self) -> str:
        """Take a session.

        Returns:
            The token that names it from now on.

        Raises:
            PoolFull: all are taken.
        """
        self.sweep()
        with self._mutex:
            if self._closed.is_set():
                raise PoolClosed("The server is stopping.")
            if len(self._leases) >= self.options.sessions:
                raise PoolFull(
                    f"All {self.options.sessions} session(s) of this server are taken. Try again when somebody has "
                    "ended theirs; or start the server with a higher --sessions."
                )
            token = secrets.token_urlsafe(24)
            self._leases[token] = Lease(self._make_session())
            logger.info("A session began: %d of %d are taken.", len(self._leases), self.options.sessions)
        return token

    def lease(self, token: str | None) -> Lease:
        """The lease with a token. This is a sign of life, but no action of the user.

        Raises:
            LeaseGone: there is none.
        """
        self.sweep()
        with self._mutex:
            lease = self._known(token)
            lease.seen_at = time.monotonic()
            return lease

    @contextmanager
    def hold(self, token: str | None) -> Iterator[Lease]:
        """The lease with a token, while a request of its user arrives and is answered. It can't expire meanwhile.

        Raises:
            LeaseGone: there is none.
        """
        self.sweep()
        with self._mutex:
            lease = self._known(token)
            lease.users += 1
            lease.active_at = lease.seen_at = time.monotonic()
        try:
            yield lease
        finally:
            lease.active_at = lease.seen_at = time.monotonic()
            self._leave(lease)

    @contextmanager
    def use(self, token: str | None) -> Iterator[SAM3DSession]:
        """The session with a token, for one action of its user. Nobody else can use it meanwhile.

        The network runs through `on_device` only.

        Raises:
            LeaseGone: there is none.
        """
        with self.hold(token) as lease, lease.lock:
            if lease.gone:
                raise _gone()
            yield lease.session

    def release(self, token: str | None) -> bool:
        """Give a session back; its image and masks are removed, as soon as it is not in use any more.

        Returns:
            Whether there was one.
        """
        with self._mutex:
            lease = self._leases.pop(token, None)
            if lease is None:
                return False
            self._end(lease)
            logger.info("A session ended: %d of %d are taken.", len(self._leases), self.options.sessions)
        return True

    def remaining(self, token: str | None) -> float:
        """Seconds until a session ends if its user does nothing.

        Raises:
            LeaseGone: there is none.
        """
        with self._mutex:
            return max(0.0, self._known(token).active_at + self.options.idle_timeout - time.monotonic())

    def sweep(self) -> None:
        """End sessions whose user or client is gone."""
        now = time.monotonic()
        with self._mutex:
            for token, lease in list(self._leases.items()):
                idle, unseen = now - lease.active_at, now - lease.seen_at
                if lease.users or (idle <= self.options.idle_timeout and unseen <= self.options.liveness_timeout):
                    continue
                del self._leases[token]
                self._end(lease)
                reason = "its user did nothing" if idle > self.options.idle_timeout else "its client is gone"
                logger.info("A session was ended because %s.", reason)

    @property
    def taken(self) -> int:
        """Number of sessions that clients hold."""
        with self._mutex:
            return len(self._leases)

    def _known(self, token: str | None) -> Lease:
        lease = self._leases.get(token) if token else None
        if lease is None:
            raise _gone()
        return lease

    @staticmethod
    def _end(lease: Lease) -> None:
        lease.gone = True
        if not lease.users:
            lease.session.close()

    def _leave(self, lease: Lease) -> None:
        """The last user of a session that is gone closes it."""
        with self._mutex:
            lease.users -= 1
            if lease.gone and not lease.users:
                lease.session.close()

    # --- the device ---

    def on_device(self, work: Callable[[], T]) -> T:
        """Run the network: waits until it is our turn, and for the result.

        Args:
            work: such as `lambda: session.add_point_interaction(...)`.

        Raises:
            PoolClosed: the server is stopping.
            Exception: what `work` raises.
        """
        future: Future = Future()
        self._jobs.put((work, future))
        if self._closed.is_set():  # put after the queue was emptied
            self._refuse(future)
        return future.result()

    def embed_ahead(self, token: str, center: Sequence[float] | None = None) -> None:
        """Embed the window around a place when the device has nothing else to do. It stops whenever there is.

        Args:
            token: of the session.
            center: (x, y, z) voxel of the image. None: its centre.
        """
        with self._mutex, suppress(LeaseGone):
            self._known(token).ahead = (center,)

    def close(self) -> None:
        """End all sessions and refuse further work. A prediction that is running is abandoned."""
        self._closed.set()
        running = self._running
        if running is not None:
            self._refuse(running)
        with suppress(queue.Empty):
            while job := self._jobs.get_nowait():
                self._refuse(job[1])
        self._jobs.put(None)
        with self._mutex:
            tokens = list(self._leases)
        for token in tokens:
            self.release(token)

    def wait(self, seconds: float) -> bool:
        """Wait for the device after `close`. Returns whether it has stopped."""
        self._device.join(seconds)
        return not self._device.is_alive()

    @staticmethod
    def _refuse(future: Future) -> None:
        with suppress(InvalidStateError):  # it has a result
            future.set_exception(PoolClosed("The server is stopping."))

    def _run_jobs(self) -> None:
        while not self._closed.is_set():
            try:
                job = self._jobs.get(timeout=PAUSE)
            except queue.Empty:
                self._embed_one_ahead()
                continue
            if job is None:
                return
            work, self._running = job
            try:
                result = work()
            except BaseException as e:
                with suppress(InvalidStateError):  # closed meanwhile
                    self._running.set_exception(e)
            else:
                with suppress(InvalidStateError):
                    self._running.set_result(result)
            self._running = job = work = result = None  # keep no image alive while waiting

    def _embed_one_ahead(self) -> None:
        with self._mutex:
            lease = next((lease for lease in self._leases.values() if lease.ahead and not lease.users), None)
            # the device never waits for a user, who may wait for the device
            if lease is None or not lease.lock.acquire(blocking=False):
                return
            (center,), lease.ahead = lease.ahead, None
            lease.users += 1

        def cancelled() -> bool:
            return not self._jobs.empty() or lease.users > 1 or lease.gone or self._closed.is_set()

        try:
            done = lease.session.embed_ahead(center, cancelled)
            if not done and cancelled() and lease.ahead is None:
                lease.ahead = (center,)  # again, when there is nothing to do
        except Exception as e:  # the click will say what is wrong
            logger.info("Nothing was embedded ahead: %s", last_line(e))
        finally:
            lease.lock.release()
            self._leave(lease)


def _gone() -> LeaseGone:
    return LeaseGone("This session has ended: it was given back, or nobody used it for too long. Connect again.")
