"""Names of cases in a message."""

from collections.abc import Collection

SHOWN = 20


def some(names: Collection[str]) -> str:
    """Names in order, the first of them if there are many."""
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
