"""What is refused before anything is read or memory is taken: strangers, foreign pages, and too large bodies."""

import hmac
import ipaddress
import json
import logging
import socket
import traceback
from asyncio import TimeoutError as TooSlow  # Python 3.10 has two of that name
from asyncio import wait_for
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sam3d_nnunet.errors import SAM3DError, last_line

logger = logging.getLogger(__name__)

JSON_BYTES = 64 * 2**10
"""Largest body that is not an array."""
PATIENCE = 60.0
"""Seconds in which the next part of a body must come."""
LINGER = 30.0
"""Seconds in which the rest of a refused body may come; it is thrown away. Clients read no answer before they have sent
all, and never see one if the connection ends earlier."""
OPEN_PATHS = ("/", "/healthz")
OPEN_FOLDER = "/page/assets/"
"""What needs no key: it tells nothing of images, and a browser can't send a key when it opens a page."""


class Refused(SAM3DError):
    """A request that is refused, with the status of HTTP that says what kind of mistake it is."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Door:
    """Who may come in.

    Attributes:
        key: that clients must send, if any.
        hosts: names by which clients may call this server, besides addresses of the form 127.0.0.1 or [::1]. A page of
            the internet can make a browser believe that its own name has our address, but it can't choose our names.
        largest: bytes of an array, unpacked.
    """

    key: str | None = None
    hosts: frozenset[str] = frozenset({"localhost"})
    largest: int = 4 * 2**30

    @staticmethod
    def names(host: str, more: Iterable[str] = ()) -> frozenset[str]:
        """The names of this machine, the one that was given, and more."""
        own = {"localhost", socket.gethostname(), host, *more}
        return frozenset(name.lower().rstrip(".") for name in own if name)

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Look at the head of a request.

        Raises:
            Refused: its host, origin, key or declared length.
        """
        host = headers.get("host", "")
        if not self._knows(_hostname(host)):
            raise Refused(
                421,
                f"This server does not answer to the name {_hostname(host)[:100]!r}. Call it by its address or as "
                "localhost, or start it with --allow-host and that name.",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit_netloc(origin) != host.lower():
            raise Refused(403, "This request comes from a page of another server, and is refused.")
        if self.key is not None and not _is_open(method, path):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not given:
                raise Refused(401, "This server wants a key: give the one that it was started with.")
            if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.key.encode()):
                raise Refused(401, "The key is not the one that this server was started with.")
        self.check_length(headers.get("content-length"), self.largest)

    def check_length(self, declared: str | None, most: int) -> None:
        """Look at the length that a body is said to have.

        Raises:
            Refused: it is too large, or no number.
        """
        if declared is None:
            return
        if not (declared.isascii() and declared.isdigit()):
            raise Refused(400, "The header Content-Length is not a number.")
        if len(declared) > 18 or int(declared) > most:
            raise too_large(most)

    def _knows(self, name: str) -> bool:
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Gate:
    """ASGI middleware: checks each request at the door, and turns errors that nobody expected into an answer and a line
    of the log."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started = complete = False

        async def read() -> Message:
            nonlocal complete
            message = await receive()
            complete = not message.get("more_body", False)
            return message

        async def rest() -> None:
            while not complete:
                await read()

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and message["status"] >= 400 and message["status"] != 408:
                with suppress(TooSlow):
                    await wait_for(rest(), LINGER)
            started = True
            await send(message)

        try:
            self.door.check(scope["method"], scope["path"], Headers(scope=scope))
            await self.app(scope, read, watched)
        except Refused as e:
            await answer(watched, e.status, str(e))
        except ClientDisconnect:
            pass
        except Exception as e:
            place = traceback.extract_tb(e.__traceback__)[-1]
            logger.error("%s failed at %s:%s: %s", scope["path"][:100], place.filename, place.lineno, _in_line(e))
            if not started:
                await answer(watched, 500, f"The server failed ({_in_line(e)}). Its log says where.")


async def answer(send: Send, status: int, detail: str) -> None:
    """Send an error and close the connection, so that nobody waits for the rest of a body that was refused."""
    content = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class Body:
    """The body of a request, read piece by piece within a limit."""

    def __init__(self, request: Request, most: int) -> None:
        """
        Args:
            request: whose body nobody has read.
            most: bytes.

        Raises:
            Refused: it is declared to be longer.
        """
        declared = request.headers.get("content-length")
        if declared is not None and declared.isdigit() and int(declared) > most:
            raise too_large(most)
        self.read = bytearray()
        self._stream, self._most = request.stream(), most

    async def at_least(self, count: int) -> bytearray:
        """Read until there are so many bytes, or no more.

        Raises:
            Refused: there are too many, or they come too slowly.
        """
        while len(self.read) < count:
            part = await next_part(self._stream, self._most - len(self.read), self._most)
            if part is None:
                break
            self.read += part
        return self.read

    async def all(self, most: int | None = None) -> bytearray:
        """Read the rest.

        Args:
            most: a lower limit, if by now there is one.

        Raises:
            Refused: as in `at_least`.
        """
        self._most = min(self._most, most or self._most)
        return await self.at_least(self._most + 1)


async def next_part(parts: AsyncIterator[bytes], room: int, most: int) -> bytes | None:
    """The next part of a body; None at its end.

    Args:
        parts: of `Request.stream`, which ends with an empty one.
        room: bytes that may still come.
        most: bytes of the whole, for the refusal.

    Raises:
        Refused: it is too large, or comes too slowly.
    """
    try:
        part = await wait_for(anext(parts, None), PATIENCE)
    except TooSlow:
        raise Refused(408, f"No part of the request came for {PATIENCE:g} s. Send it again.") from None
    if part is not None and len(part) > room:
        raise too_large(most)
    return part


def too_large(most: int) -> Refused:
    """The refusal of something that has more than so many bytes."""
    size = f"{most / 2**20:.0f} MB" if most >= 2**20 else f"{most / 2**10:.0f} kB"
    return Refused(413, f"This is more than the {size} that this server takes for it (--max-image-gb).")


def urlsplit_netloc(origin: str) -> str:
    """Host and port of an origin; empty if it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    """Of the header Host, which may hold a port."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def _is_open(method: str, path: str) -> bool:
    return method in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDER))


def _in_line(error: Any) -> str:
    return " ".join(last_line(error).split())[:200]
