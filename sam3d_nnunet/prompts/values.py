"""What a user may write for the position and the label of a click."""

import math
import re
from typing import Any

MAX_LABEL = 2**63 - 1  # of int64
# fewer digits than int64 holds, so that the number always fits
NUMBER = re.compile(r"(?:(?:label|class)\s*=\s*)?([0-9]{1,18})", re.IGNORECASE)
WORDS = {"background": 0, "negative": 0, "neg": 0, "-": 0, "foreground": 1, "positive": 1, "pos": 1, "+": 1}


def to_position(value: Any) -> list[float] | None:
    """Three finite numbers from JSON as floats, None for anything else."""
    if not isinstance(value, list) or len(value) != 3 or any(type(x) not in (int, float) for x in value):
        return None
    try:
        position = [float(x) for x in value]
    except OverflowError:  # hundreds of digits
        return None
    return position if all(map(math.isfinite, position)) else None


def to_label(text: str, class_names: dict[str, int] | None) -> int | None:
    """Label that a text means: a number, `label=K`, `class=K`, or what `named_label` knows; None for anything else."""
    number = NUMBER.fullmatch(text.strip())
    return int(number[1]) if number else named_label(text, class_names)


def named_label(text: str, class_names: dict[str, int] | None) -> int | None:
    """Label with a name: a class of the model, or one of `WORDS`; upper and lower case are the same.

    Args:
        text: what the user wrote.
        class_names: `labels` of dataset.json; regions (lists of labels) are no label of a click and are left out.
    """
    classes = {name.casefold(): label for name, label in (class_names or {}).items() if isinstance(label, int)}
    return (WORDS | classes).get(text.strip().casefold())


def label_forms(class_names: dict[str, int] | None) -> str:
    """What can be written for a label, for messages."""
    names = ", ".join(class_names) if class_names else "names of classes are not known here"
    return f"Write a number, label=K, background, foreground or the name of a class ({names})."
