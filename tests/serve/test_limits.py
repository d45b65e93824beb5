"""Who is let in, and what is read."""

import asyncio
import json

import blosc2
import numpy as np
import pytest
from nnInteractive.inference.remote.serialization import pack_array
from starlette.datastructures import Headers

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.serve import limits, wire
from sam3d_nnunet.serve.limits import Body, Door, Gate, Refused
from sam3d_nnunet.serve.server import Address, slow


def status_of(door: Door, path: str = "/claim", method: str = "POST", **headers: str) -> int | None:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        door.check(method, path, Headers({"host": "127.0.0.1:1527", **names}))
    except Refused as e:
        return e.status
    return None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1527", None),
        ("LOCALHOST.", None),
        ("127.0.0.1", None),
        ("[::1]:1527", None),
        ("192.168.1.5:1527", None),
        ("ct-server", None),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:1527", 421),
        ("", 421),
        ("[::1", None),
        ("[x]", 421),
    ],
)
def test_only_our_own_names_are_answered(host, status):
    assert status_of(Door(hosts=Door.names("127.0.0.1", ["ct-server"])), host=host) == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:1527", None), ("http://evil.example", 403), ("null", 403), ("http://127.0.0.1:8888", 403)],
)
def test_pages_of_other_servers_are_refused(origin, status):
    assert status_of(Door(), origin=origin) == status


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer right", None),
        ("bearer right", None),
        ("Bearer wrong", 401),
        ("Bearer ", 401),
        ("right", 401),
        ("", 401),
    ],
)
def test_the_key_is_wanted(given, status):
    assert status_of(Door(key="right"), authorization=given) == status
    assert status_of(Door(), authorization=given) is None


def test_what_shows_no_image_needs_no_key():
    for path in ("/", "/healthz", "/page/assets/viewer.js"):
        assert status_of(Door(key="right"), path, "GET") is None
    for path in ("/page/images", "/capabilities", "/page/assets"):
        assert status_of(Door(key="right"), path, "GET") == 401
    assert status_of(Door(key="right"), "/", "POST") == 401


@pytest.mark.parametrize(
    ("length", "status"), [("100", None), ("101", 413), ("1" * 5000, 413), ("-1", 400), ("x", 400), ("²", 400)]
)
def test_declared_lengths_are_checked_before_anything_is_read(length, status):
    assert status_of(Door(largest=100), content_length=length) == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "server.example"])
def test_other_hosts_need_a_key(host):
    with pytest.raises(SAM3DError, match="NN_INTERACTIVE_API_KEY"):
        Address(host).check()
    Address(host, key="x").check()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_needs_none(host):
    Address(host).check()


@pytest.mark.parametrize("key", ["", "ä", "a\nb", "  "])
def test_keys_that_cannot_be_sent_are_refused(key):
    with pytest.raises(SAM3DError, match="key must"):
        Address(key=key).check()


class Parts:
    """A request whose body comes in parts."""

    def __init__(self, *parts: bytes, **headers: str) -> None:
        self.parts, self.headers, self.given = parts, headers, 0

    async def stream(self):
        for part in self.parts:
            self.given += 1
            yield part


def read(request: Parts, most: int) -> bytes:
    return bytes(asyncio.run(Body(request, most).all()))


def test_bodies_are_read_up_to_a_limit():
    assert read(Parts(b"abc", b"", b"de"), 5) == b"abcde"
    request = Parts(b"abc", b"def", b"ghi")
    with pytest.raises(Refused) as caught:
        read(request, 5)
    assert caught.value.status == 413 and request.given == 2


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    class Slow(Parts):
        async def stream(self):
            yield b"a"
            await asyncio.sleep(60)

    monkeypatch.setattr(limits, "PATIENCE", 0.05)
    with pytest.raises(Refused) as caught:
        read(Slow(), 5)
    assert caught.value.status == 408


def array_from(content: bytes, largest: int = 10**6, shape: tuple | None = None) -> np.ndarray:
    parts = [content[i : i + 700] for i in range(0, len(content), 700)]
    head, body = asyncio.run(wire.read_array(Body(Parts(*parts), 10**6), largest, shape))
    return wire.unpack(head, body)


@pytest.mark.parametrize("codec", [blosc2.Codec.ZSTD, blosc2.Codec.LZ4])
@pytest.mark.parametrize("filters", [None, [blosc2.Filter.NOFILTER], [blosc2.Filter.SHUFFLE]])
def test_arrays_of_clients_are_read(codec, filters):
    rng = np.random.default_rng(0)
    for array in (
        rng.normal(size=(1, 9, 8, 7)).astype("f4"),
        rng.integers(0, 9, (30, 20, 10)).astype("i2"),
        np.zeros((40, 40, 40), "u1"),
        rng.random((3, 3, 3)) > 0.5,
        rng.normal(size=(3, 4, 5)).astype(">f8"),
    ):
        found = array_from(pack_array(array, codec=codec, filters=filters, nthreads=1))
        assert found.shape == array.shape and (found == array).all()


def changed(place: int, value: int) -> bytes:
    """A good body with one byte of the frame's head, or of the array's, changed."""
    body = bytearray(pack_array(np.arange(1000, dtype="i4").reshape(10, 10, 10), nthreads=1))
    body[place if place < 8 else wire.ArrayHead.read(body).size + 20 + place - 8] = value
    return bytes(body)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"NNIA", 400),
        (changed(0, 0), 400),  # magic
        (changed(4, 2), 400),  # version
        (changed(5, 9), 415),  # codec
        (changed(6, 200), 400),  # axes
        (changed(8 + 2, 0xA5), 415),  # codec of the frame
        (changed(8 + 2, 0xE5), 415),
        (changed(8 + 16, 160), 415),  # a filter of others
        (changed(8 + 31, 0x08), 415),  # data in a file
        (changed(8 + 4, 1), 400),  # bytes
        (changed(8 + 12, 1), 400),  # packed bytes
        (pack_array(np.zeros((5, 5, 5)), nthreads=1)[:-1], 400),
        (pack_array(np.zeros((5, 5, 5)), nthreads=1) + b"x", 400),
        (pack_array(np.zeros((5, 5)), nthreads=1), 400),
    ],
)
def test_other_bodies_are_refused(content, status):
    with pytest.raises(Refused) as caught:
        array_from(content)
    assert caught.value.status == status


def test_declared_shapes_are_refused_before_the_rest_is_read():
    content = pack_array(np.zeros((50, 50, 50)), nthreads=1)
    with pytest.raises(Refused) as caught:
        array_from(content, largest=999_999)
    assert caught.value.status == 413
    with pytest.raises(Refused) as caught:
        array_from(content, shape=(50, 50, 51))
    assert caught.value.status == 422
    huge = wire.START.pack(b"NNIA", 1, 1, 3, 7) + b"float32" + np.array([2**30] * 3, "<i8").tobytes()
    request = Parts(huge.ljust(wire.LONGEST_HEAD, b"x"), *[b"x"] * 1000)
    with pytest.raises(Refused):
        asyncio.run(wire.read_array(Body(request, 10**9), 10**9))
    assert request.given == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", "\xff", '{"coordinates": [1, 2], "include_interaction": true}', "[" * 5000]
)
def test_what_says_no_point_is_refused_in_a_sentence(text):
    with pytest.raises(Refused, match="request") as caught:
        wire.parsed(wire.PointRequest, text.encode("latin-1"))
    assert caught.value.status == 400 and len(str(caught.value)) < 300


async def no_body():
    return {"type": "http.request", "body": b"", "more_body": False}


def test_a_refused_body_is_thrown_away_so_that_clients_see_the_answer(monkeypatch):
    async def unused(scope, receive, send):
        raise AssertionError

    def ask(count: int, length: str) -> tuple[int, list]:
        sent, left = [], [count]

        async def receive():
            await asyncio.sleep(0 if left[0] else 60)
            left[0] -= 1
            return {"type": "http.request", "body": b"x" * 1000, "more_body": left[0] > 0 or length == "endless"}

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-length", b"1000000")]
        scope = {"type": "http", "method": "POST", "path": "/set_image", "headers": headers}
        asyncio.run(Gate(unused, Door(largest=100_000))(scope, receive, send))
        return left[0], sent

    left, sent = ask(20, "as declared")
    assert left == 0 and sent[0]["status"] == 413
    monkeypatch.setattr(limits, "LINGER", 0.05)
    left, sent = ask(20, "endless")
    assert sent[0]["status"] == 413


def test_unexpected_errors_are_one_line_of_the_log(caplog):
    async def broken(scope, receive, send):
        raise KeyError("something")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/undo", "headers": [(b"host", b"localhost")]}
    asyncio.run(Gate(broken, Door())(scope, no_body, send))
    assert sent[0]["status"] == 500 and "KeyError" in json.loads(sent[1]["body"])["detail"]
    (record,) = caplog.records
    assert "test_limits.py" in record.getMessage() and record.exc_info is None


def test_slow_devices_are_told_with_a_remedy():
    assert slow(1, "cpu") == []
    (line,) = slow(20, "cpu")
    assert "enough for 3 window(s)" in line and "GPU" in line
    (line,) = slow(61, "cpu")
    assert "longer than 60 s" in line and "--precision bf16" in line
    assert "GPU" not in slow(61, "cuda")[0]
