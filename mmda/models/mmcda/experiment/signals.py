"""A request to stop, by Ctrl-C, SIGTERM or a terminal that is closed, as a value that a loop looks at."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: SIGHUP: the terminal was closed. Where it is ignored (``nohup``) it stays so.
STOPPING = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


class StopRequest:
    """Whether the process was asked to stop, and by which signal.

    Attributes:
        signal: its number, 0 before.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[StopRequest]:
    """While it lasts, the first signal only asks to stop; the second ends the process as it would without.

    A ``patient`` process leaves the end to the one that started it: no signal does more than ask.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # signals arrive elsewhere
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
    """Ctrl-C waits, and processes started meanwhile never see it: the one that started them ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
