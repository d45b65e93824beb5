"""The one exception for mistakes of the user."""

import sys
from types import TracebackType


class SAM3DError(Exception):
    """A mistake of the user's, with a sentence that says what is wrong, where, and what to do."""


def show_as_sentence() -> None:
    """Print a `SAM3DError` that nobody catches as its sentence alone, in nnU-Net's commands too."""
    previous = sys.excepthook
    if getattr(previous, "shows_sentences", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, SAM3DError):
            print(f"Error: {error}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    hook.shows_sentences = True
    sys.excepthook = hook
