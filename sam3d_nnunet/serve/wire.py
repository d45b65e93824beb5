"""nnInteractive's protocol 2.6: names, what requests say, packed arrays, and answers.

Arrays are packed and unpacked by `nninteractive-client`. Its function trusts what it gets: it makes an array of any
declared shape, and blosc2 may load a codec that a frame names. Therefore everything that a body declares is checked
here first, see `ArrayHead` and `check_frames`.
"""

import json
import math
import struct
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, Field, StrictBool, ValidationError
from starlette.responses import Response

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.serve.limits import Body, Refused, too_large

CLIENT, MINOR = "nninteractive-client", "2.6"
META, LEASE = "X-Meta", "X-Lease-Token"
"""Headers: what belongs to an array, and the token of a session."""

TYPES = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
TYPES |= {"bool", "float16", "float32", "float64"}
"""Of packed arrays."""
START = struct.Struct("<4sBBBB")  # magic, version, codec, number of axes, length of the type's name
COUNT, FRAME = struct.Struct("<I"), struct.Struct("<QQ")  # of frames; a frame's bytes, unpacked and packed
MAGIC, FORMAT, CODECS = b"NNIA", 1, (1, 2)
LONGEST_HEAD = START.size + 255 + 8 * 255
BLOSC = struct.Struct("<BBBBiii8s7sB")  # the head of a blosc2 chunk, as its format describes it
BLOSC_CODECS = (0, 1, 4)  # BloscLZ, LZ4, Zstandard: part of blosc2, never loaded from elsewhere
BLOSC_FILTERS = (0, 1, 2)  # none, shuffled bytes, shuffled bits
BLOSC_ELSEWHERE = 0x8B  # dictionaries, big-endian values, data in a file, instrumented codecs: no client sends them

M = TypeVar("M", bound=BaseModel)
Number = Annotated[float, Field(allow_inf_nan=False)]
Ends = tuple[Number, Number]
Box = tuple[Ends, Ends, Ends]
Length = Annotated[int, Field(strict=True, gt=0, lt=2**31)]


class Interaction(BaseModel):
    """What all interactions say."""

    include_interaction: StrictBool
    run_prediction: StrictBool = True


class PointRequest(Interaction):
    """A click."""

    coordinates: tuple[Number, Number, Number]


class BoxRequest(Interaction):
    """A box."""

    bbox_coords: Box


class DrawnRequest(Interaction):
    """A scribble or lasso; the array is the body."""

    interaction_bbox: Box | None = None


class InitialRequest(BaseModel):
    """An initial mask; the array is the body."""

    run_prediction: StrictBool = False


class ImageRequest(BaseModel):
    """An image; the array is the body."""

    image_properties: dict[str, Any] | None = None


class BufferRequest(BaseModel):
    """A target buffer: ours is like the client's."""

    shape: tuple[Length, Length, Length]
    dtype: Annotated[str, Field(max_length=20)]


class AutozoomRequest(BaseModel):
    """Growth, on or off."""

    do_autozoom: StrictBool


class PredictRequest(BaseModel):
    """A prediction from what was asked with `run_prediction=False`."""

    force_full_refine: StrictBool = False


def check_client() -> None:
    """Look whether the package that packs arrays is there, in the version that we were tested with.

    Raises:
        SAM3DError: it isn't.
    """
    try:
        found = version(CLIENT)
        from nnInteractive.inference.remote import serialization  # noqa: F401
    except (PackageNotFoundError, ImportError) as e:
        raise SAM3DError(
            f"{CLIENT} can't be imported ({last_line(e)}). Install what a server needs: "
            'pip install "sam3d_nnunet[serve]"'
        ) from e
    if not found.startswith(f"{MINOR}."):
        raise SAM3DError(f"{CLIENT} is {found}, but this server speaks {MINOR}: pip install '{CLIENT}=={MINOR}.*'")


def parsed(kind: type[M], content: bytes | bytearray | str | None) -> M:
    """What a request says.

    Args:
        kind: of request.
        content: JSON.

    Raises:
        Refused: it says something else.
    """
    try:
        return kind.model_validate_json(bytes(content) if isinstance(content, bytearray) else content or "{}")
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refused(400, f"The request can't be used: {f'{place}: ' if place else ''}{first['msg']}.") from None
    except ValueError as e:  # characters that are no text
        raise Refused(400, f"The request is not JSON ({last_line(e)}).") from None


@dataclass(frozen=True)
class ArrayHead:
    """What a packed array says about itself.

    Attributes:
        shape: of the array.
        type: of its values.
        size: bytes of the head in the body.
    """

    shape: tuple[int, ...]
    type: np.dtype
    size: int

    @classmethod
    def read(cls, start: bytes | bytearray) -> "ArrayHead":
        """From the start of a body, `LONGEST_HEAD` bytes if there are so many.

        Raises:
            Refused: it is no packed array.
        """
        if len(start) < START.size:
            raise Refused(400, f"The body has {len(start)} bytes and is no packed array.")
        magic, form, codec, axes, letters = START.unpack_from(start)
        size = START.size + letters + 8 * axes
        if magic != MAGIC or form != FORMAT:
            raise Refused(400, f"The body is not an array as {CLIENT} {MINOR} packs it.")
        if codec not in CODECS:
            raise Refused(415, f"The array is packed by a method with number {codec}, which this server doesn't know.")
        if len(start) < size:
            raise Refused(400, "The body ends within the description of its array.")
        name = bytes(start[START.size : START.size + letters]).decode("ascii", "replace")
        if name not in TYPES:
            raise Refused(415, f"The array has the type {name[:30]!r}. Send integers or floats, such as float32.")
        shape = struct.unpack_from(f"<{axes}q", start, START.size + letters)
        if not 3 <= axes <= 4 or min(shape) < 1 or max(shape) >= 2**31:
            raise Refused(400, f"The array has the shape {list(shape)[:8]}. It needs three or four axes, none empty.")
        return cls(shape, np.dtype(name), size)

    @property
    def bytes(self) -> int:
        """Of the array, unpacked."""
        return math.prod(self.shape) * self.type.itemsize

    @property
    def most_packed(self) -> int:
        """Bytes of the longest body that a client would send for it: blosc2 adds little where it can't compress."""
        return self.size + COUNT.size + self.bytes + self.bytes // 100 + 4096


async def read_array(
    body: Body, largest: int, shape: tuple[int, ...] | None = None, name: str = "array"
) -> tuple[ArrayHead, bytearray]:
    """Read a packed array; what it declares is looked at before the rest is read.

    Args:
        body: of which nothing was read.
        largest: bytes that the array may have, unpacked.
        shape: that it must have, if that is known.
        name: of the array, for errors.

    Returns:
        Its head, and the whole body, for `unpack`.

    Raises:
        Refused: it is too large, has another shape, or is no packed array.
    """
    head = ArrayHead.read(await body.at_least(LONGEST_HEAD))
    if shape is not None and head.shape != tuple(shape):
        raise Refused(422, f"The {name} has the shape {list(head.shape)} instead of {list(shape)}.")
    if head.bytes > largest:
        raise too_large(largest)
    return head, await body.all(head.most_packed)


def unpack(head: ArrayHead, body: bytearray) -> np.ndarray:
    """The array in a body.

    Raises:
        Refused: it can't be unpacked.
    """
    from nnInteractive.inference.remote.serialization import unpack_array

    check_frames(head, body)
    try:
        return unpack_array(body)
    except (ValueError, RuntimeError, MemoryError) as e:
        raise Refused(400, f"The array can't be unpacked ({last_line(e)}). Send it again.") from None


def check_frames(head: ArrayHead, body: bytearray) -> None:
    """Look at the heads of all compressed frames of a body.

    Raises:
        Refused: they don't fit each other, their number or their length, or name a codec or filter of others.
    """
    damaged = Refused(400, "The body is cut or damaged. Send the array again.")
    place, unpacked = head.size + COUNT.size, 0
    if len(body) < place:
        raise damaged
    (count,) = COUNT.unpack_from(body, head.size)
    for _ in range(count):
        if len(body) - place < FRAME.size + BLOSC.size:
            raise damaged
        whole, packed = FRAME.unpack_from(body, place)
        place += FRAME.size
        _, _, flags, _, bytes_, block, own, filters, _, more = BLOSC.unpack_from(body, place)
        if packed > len(body) - place or own != packed or bytes_ != whole or not 0 < block <= max(whole, 2**16):
            raise damaged
        extended = flags & 0b101 == 0b101
        foreign = flags >> 5 not in BLOSC_CODECS or any(f not in BLOSC_FILTERS for f in filters[:6])
        if foreign or not extended or more & BLOSC_ELSEWHERE:
            raise Refused(415, "The array is compressed by a codec or filter that this server doesn't take.")
        place, unpacked = place + packed, unpacked + whole
    if place != len(body) or unpacked != head.bytes:
        raise damaged


def capabilities(session: SAM3DSession) -> dict[str, Any]:
    """What clients want to know about a model."""
    return {
        "supported_interactions": dict(session.supported_interactions),
        "channel_mapping": {
            name: list(value) if isinstance(value, tuple) else value for name, value in session.channel_mapping.items()
        },
        "num_interaction_channels": session.num_interaction_channels,
        "supports_initial_label": session.supports_initial_label,
        "supports_zero_shot_label_refinement": session.supports_zero_shot_label_refinement,
        "preferred_scribble_thickness": list(session.preferred_scribble_thickness),
        "interaction_decay": session.interaction_decay,
        "patch_size": list(map(int, session.model.configuration.patch_size)),
        "do_autozoom": session.do_autozoom,
        "inference_session_version": session.INFERENCE_SESSION_VERSION,
        "license": session.license,
        "supports_undo": session.supports_undo,
    }


def mask_part(session: SAM3DSession, ran: bool) -> Response:
    """The answer to an interaction: the part of the mask that the model has changed since the last reset.

    It holds more than this interaction changed. If an answer is lost on its way, the next one brings what it held.

    Args:
        session: whose buffer holds the mask.
        ran: whether there was a prediction, or something was undone. If not, the answer is empty.
    """
    from blosc2 import Filter
    from nnInteractive.inference.remote.serialization import pack_array

    box = session._touched if ran else None
    content, meta = b"", {"ran_prediction": ran, "bbox": box}
    if box is not None:
        part = np.ascontiguousarray(session.target_buffer[tuple(slice(low, high) for low, high in box)])
        content = pack_array(part, filters=[Filter.NOFILTER], nthreads=1)
        meta |= {"dtype": str(part.dtype), "shape": list(part.shape)}
    headers = {META: json.dumps(meta, separators=(",", ":"))}
    return Response(content, media_type="application/octet-stream", headers=headers)
