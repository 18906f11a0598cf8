"""Ctrl-C, SIGTERM and SIGHUP as a flag that a loop can check."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: SIGHUP is sent when the terminal is closed; it stays ignored if it is (``nohup``).
STOPPING = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


class StopRequest:
    """True once the process has received a signal to stop.

    Attributes:
        signal: number of the signal, 0 before.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[StopRequest]:
    """Inside the context the first signal only sets the flag; a second one ends the process as usual.

    In a ``patient`` process, which its parent ends, signals only ever set the flag.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield request
        return

    def ask(number: int, _: FrameType | None) -> None:
        request.signal = number
        if not patient:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    wanted = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in wanted}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Defer Ctrl-C; processes started inside the context ignore it, and their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
