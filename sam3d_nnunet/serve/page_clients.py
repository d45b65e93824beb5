"""Who has the page open: one session of the pool each, uploaded files, and the image that is open."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from weakref import WeakKeyDictionary

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.serve.page_case import PageCase
from sam3d_nnunet.serve.pool import LeaseGone, SessionPool


@dataclass
class PageClient:
    """What the page of one session has open.

    Attributes:
        folder: of uploaded files.
        uploads: their paths by channel.
        case: the image that is open.
    """

    folder: TemporaryDirectory = field(default_factory=lambda: TemporaryDirectory(prefix="sam3d_page_"))
    uploads: dict[int, Path] = field(default_factory=dict)
    case: PageCase | None = None

    def opened(self) -> PageCase:
        """The case.

        Raises:
            SAM3DError: no image is open.
        """
        if self.case is None:
            raise SAM3DError("No image is open. Open one first.")
        return self.case

    def forget_uploads(self) -> None:
        """Delete uploaded files."""
        self.uploads = {}
        for place in Path(self.folder.name).iterdir():
            shutil.rmtree(place)


class PageClients:
    """The pages that have a session. What a page has open is forgotten with its session, however that ends."""

    def __init__(self, pool: SessionPool) -> None:
        self.pool = pool
        self._clients: WeakKeyDictionary[SAM3DSession, PageClient] = WeakKeyDictionary()

    def claim(self) -> str:
        """A new session; returns its token.

        Raises:
            PoolFull: all sessions are taken.
        """
        token = self.pool.claim()
        self._clients[self.pool.lease(token).session] = PageClient()
        return token

    def get(self, token: str) -> PageClient:
        """The page of a session. A sign of life, but no action of the user.

        Raises:
            LeaseGone: the session has ended, or belongs to another client.
        """
        try:
            return self._clients[self.pool.lease(token).session]
        except (LeaseGone, KeyError) as e:
            raise LeaseGone("This session has ended, since nothing was done for too long. Begin a new one.") from e

    @contextmanager
    def use(self, token: str) -> Iterator[tuple[PageClient, SAM3DSession]]:
        """Page and session for one action of the user, one at a time.

        Raises:
            LeaseGone: the session has ended.
        """
        client = self.get(token)
        with self.pool.use(token) as session:
            yield client, session
