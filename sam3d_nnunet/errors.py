"""The one exception for mistakes of the user, and the sentences for what the operating system refuses."""

import errno
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

SHEARED = (
    "its axes are sheared, but ITK reads only orthonormal ones. Resample it to axes at right angles; or, for a new "
    'data set, set "overwrite_image_reader_writer": "NibabelIO" in dataset.json'
)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the operating system says when a disk, a quota or the largest size of a file is reached."""


class SAM3DError(ValueError):
    """A mistake of the user's, with a sentence that says what is wrong, where, and what to do.

    A `ValueError`, because that is what clients and servers of nnInteractive take for a mistake of the user's.
    """


@contextmanager
def errors_in(where: str) -> Iterator[None]:
    """Mistakes that are found in the body are told with the place that they stand in."""
    try:
        yield
    except SAM3DError as e:
        raise SAM3DError(f"{where}: {e}") from e


def last_line(error: Exception) -> str:
    """The last line of an error's message: those of image libraries can be pages long.

    The kind of the error comes first where the message alone may say nothing, as in KeyError: 'spacing'.
    """
    name, lines = type(error).__name__, str(error).strip().splitlines()
    if not lines:
        return name
    if any("orthonormal" in line for line in lines):
        return SHEARED
    return lines[-1] if isinstance(error, (OSError, RuntimeError)) else f"{name}: {lines[-1]}"


def refusal(error: OSError, go_on: str = "repeat the command") -> str | None:
    """What the operating system refused, in a sentence: a path that can't be used, a full disk.

    None for anything else that is an OSError, such as a lost connection: only the traceback tells what happened.

    Args:
        error: of the operating system.
        go_on: what to do once a full disk has room again.
    """
    path = error.filename2 or error.filename  # of a file that is moved, the user knows the target
    if error.errno in FULL:
        return f"{path or 'The disk'}: {error.strerror}. Make room there and {go_on}."
    if path is None:
        return None
    return f"{path}: {error.strerror}. Give another path, or correct what is there and its rights."


def reason(error: Exception) -> str:
    """Why a case failed, in a sentence, where others go on; unexpected errors also print their traceback to stderr."""
    if isinstance(error, SAM3DError):
        return str(error)
    if isinstance(error, OSError) and (sentence := refusal(error)):
        return sentence
    traceback.print_exception(error, file=sys.stderr)
    return f"{type(error).__name__}: {error}"


@contextmanager
def full_disk_told(go_on: str) -> Iterator[None]:
    """Raise a `SAM3DError` where the body meets a full disk.

    Args:
        go_on: what to do once it has room again.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise SAM3DError(refusal(e, go_on)) from e


def show_as_sentence() -> None:
    """Print a `SAM3DError` that nobody catches as its sentence alone, in nnU-Net's commands too."""
    previous = sys.excepthook
    if getattr(previous, "shows_sentences", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, SAM3DError):
            print(f"Error: {error}", file=sys.stderr)
        elif isinstance(error, ConnectionError) and threading.current_thread() is not threading.main_thread():
            pass  # multiprocessing reports a worker that was ended, after an error, before it took what was sent to it
        else:
            previous(kind, error, trace)

    hook.shows_sentences = True
    sys.excepthook = hook
