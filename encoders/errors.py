"""Faults that the user can mend."""


class MedretError(Exception):
    """A fault in data, paths or versions: one line that says where, what, what was expected, what to do."""


class UncoveredError(MedretError):
    """A network has something that is not computed without torch: torch has to; the message is one clause."""
