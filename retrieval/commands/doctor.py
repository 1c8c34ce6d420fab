"""The state of this installation."""

from encoders.errors import MedretError
from retrieval.commands.encoding import named_encoder


def doctor() -> None:
    """Say what is installed, and what is wrong with it."""
    from retrieval.doctor import examine, render_checks

    checks = list(examine(named_encoder()))
    print(render_checks(checks))
    if any(check.fatal for check in checks):
        raise MedretError("this installation cannot work; the lines marked ! say what to do")
