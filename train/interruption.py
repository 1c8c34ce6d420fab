"""Ctrl-C and kill, taken note of so that the work in hand can be saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def signals_noted() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGINT or SIGTERM came; the second one acts as it did before.

    Python hands signals to the main thread alone: elsewhere none is noted.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: object) -> None:
        came.set()
        for each, action in before.items():
            signal.signal(each, action)

    for number in before:
        signal.signal(number, handle)
    try:
        yield came.is_set
    finally:
        for number, action in before.items():
            signal.signal(number, action)
