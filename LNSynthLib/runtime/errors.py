"""The two exceptions that every room may raise: one for what the user can mend, one for work that the user stopped."""


class LNSynthError(Exception):
    """Something the user can mend. The message is one sentence: which file, what is wrong, what to do."""


def shown(value: object, most: int = 80) -> str:
    """A value as a sentence quotes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most - 3]}..."


class Cancelled(BaseException):
    """The user stopped the work. Finished results stay whole; nothing half-written is left.

    No Exception, as KeyboardInterrupt is none: a library's `except Exception` must not swallow it.
    """
