"""Faults that the user can mend."""


class MedretError(Exception):
    """A fault in data, paths or versions: one line that says where, what, what was expected, what to do."""
