"""A server that speaks nnInteractive's protocol, asked through its official client: sessions and errors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sam3d_nnunet.errors import SAM3DError, last_line

if TYPE_CHECKING:
    from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession

CLIENT = "nninteractive-client"
KEY = "NN_INTERACTIVE_API_KEY"
"""Variable with the server's key; the client reads it."""
TIME_LIMIT = 300.0
"""Seconds for one answer of the server. nnInteractive needs up to 10 on a GPU, and minutes on CPUs."""
AGAIN = "Then run the same command again: finished cases are kept."


@dataclass(frozen=True)
class Capabilities:
    """What a server says about its model.

    Attributes:
        version: of the server's program.
        licence: of the model.
        interactions: those that it takes: "points", "bbox2d", "bbox3d", ...
        autozoom: whether it zooms out where an object is larger than its window.
    """

    version: str
    licence: str | None
    interactions: tuple[str, ...]
    autozoom: bool

    @property
    def flat_boxes(self) -> bool | None:
        """Whether boxes must be flat; None if it takes no boxes."""
        if "bbox3d" in self.interactions:
            return False
        return True if "bbox2d" in self.interactions else None


class Server:
    """Where the server is, and how long it may take."""

    def __init__(self, url: str, time_limit: float = TIME_LIMIT) -> None:
        """
        Args:
            url: such as http://localhost:1527.
            time_limit: seconds for one answer: an image that is taken, or one prediction of one object.

        Raises:
            SAM3DError: the client is not installed, or this is no address.
        """
        try:
            from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession

            self.client_version = version(CLIENT)
        except ImportError as e:  # also where an old nnInteractive has the module, but not this package
            raise SAM3DError(
                f"A server is asked through {CLIENT}, which can't be imported ({last_line(e)}). Install it: "
                'pip install "sam3d_nnunet[rivals]"'
            ) from e
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # of the port
            usable = False
        if not usable:
            raise SAM3DError(f"{url} is not the address of a server. Give one such as http://localhost:1527.")
        self.url, self.time_limit = url, time_limit
        self.place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._session_class = nnInteractiveRemoteInferenceSession

    def capabilities(self) -> Capabilities:
        """Ask the server what it can do.

        Raises:
            SAM3DError: it can't be reached or used, or takes no clicks.
        """
        with self.session() as session, self.answering("asked what it can do"):
            wanted = [name for name, supported in session.supported_interactions.items() if supported]
            found = Capabilities(
                str(session.INFERENCE_SESSION_VERSION),
                session.license,
                tuple(sorted(wanted)),
                bool(session.do_autozoom),
            )
        if "points" not in found.interactions:
            raise SAM3DError(f"The model of the server {self.place} takes no clicks. Start the server with another.")
        return found

    @contextmanager
    def session(self) -> Iterator["nnInteractiveRemoteInferenceSession"]:
        """A session of the server; it is given back at the end.

        Raises:
            SAM3DError: the server can't be reached, or has none.
        """
        limit = self.time_limit
        with self.answering("asked for a session"):
            session = self._session_class(
                self.url, read_timeout=limit, set_image_read_timeout=limit, write_timeout=limit
            )
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def answering(self, doing: str, channels: int = 1) -> Iterator[None]:
        """Turn what can go wrong while the server answers into sentences.

        Args:
            doing: what it is doing, such as "asked for a session".
            channels: of the image.

        Raises:
            SAM3DError: something has gone wrong.
        """
        import httpx
        from nnInteractive.inference.remote import ServerAtCapacityError, SessionExpiredError

        try:
            yield
        except SessionExpiredError as e:
            raise SAM3DError(
                f"The server {self.place} ended the session when {doing} ({last_line(e)}): it was restarted, or "
                f"waited longer than its --idle-timeout-seconds. {AGAIN}"
            ) from e
        except ServerAtCapacityError as e:
            raise SAM3DError(
                f"The server {self.place} has no free session ({last_line(e)}). Wait until others end theirs, or start "
                f"it with a higher --max-sessions. {AGAIN}"
            ) from e
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as e:
            raise SAM3DError(
                f"The server {self.place} can't be reached ({last_line(e)}). Start it, or correct the address. {AGAIN}"
            ) from e
        except httpx.TimeoutException as e:
            raise SAM3DError(
                f"The server {self.place} did not answer within {self.time_limit:g} s when {doing}. Give it more time "
                f"with --time-limit. {AGAIN}"
            ) from e
        except httpx.HTTPStatusError as e:
            raise SAM3DError(self._refusal(e.response.status_code, _detail(e.response), doing, channels)) from e
        except httpx.HTTPError as e:
            raise SAM3DError(
                f"The connection to the server {self.place} broke when {doing} ({last_line(e)}). Its log says why; "
                f"start it again if it has stopped. {AGAIN}"
            ) from e
        except (httpx.InvalidURL, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as e:
            raise SAM3DError(
                f"The server {self.place} gave an answer that {CLIENT} {self.client_version} does not understand when "
                f"{doing} ({last_line(e)}). Check that it is nnInteractive's, of the same version."
            ) from e

    def _refusal(self, status: int, detail: str, doing: str, channels: int) -> str:
        """What a status of HTTP means."""
        if status in (401, 403):
            return f"The server {self.place} refuses the key ({detail}). Set {KEY} to the one that it was started with."
        if status in (404, 405):
            return (
                f"The server {self.place} does not know what it was asked when {doing} ({detail}). Check that it is "
                f"nnInteractive's, of the version of {CLIENT} {self.client_version}."
            )
        if status < 500:
            return f"The server {self.place} refused when {doing}: {detail.rstrip('.')}. Correct that. {AGAIN}"
        several = (
            f" The image has {channels} channels, but the published models of nnInteractive take one: make a data set "
            "of one of them."
        )
        return (
            f"The server {self.place} failed with HTTP status {status} when {doing} ({detail})."
            f"{several if channels > 1 else ''} Its log says why. {AGAIN}"
        )


def _detail(response: Any) -> str:
    """What an answer says about its error, in one line."""
    try:
        content = json.loads(response.text)
        text = content["detail"] if isinstance(content, dict) and "detail" in content else response.reason_phrase
    except ValueError:
        text = response.reason_phrase
    return " ".join(str(text).split())[:300] or "no reason given"
