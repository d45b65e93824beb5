"""The one exception for mistakes of the user."""


class SAM3DError(Exception):
    """A mistake of the user's, with a sentence that says what is wrong, where, and what to do."""
