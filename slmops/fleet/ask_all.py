"""Ask many devices at the same time, so many at once.

It does not know what is asked. Law: whoever leaves, by Ctrl-C, leaves at once; a device that still thinks
is waited for by nobody.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from slmops.fleet.inventory import Device

AT_ONCE = 32
"""Devices that are asked at the same time at the least: a question is little work, on both sides."""
Said = TypeVar("Said")


def ask_all(
    devices: Sequence[Device],
    ask: Callable[[Device], Said],
    most: int,
    each: Callable[[Said], None] = lambda said: None,
) -> list[Said]:
    """Return what `ask` said of every device, in order; `each` hears it as it comes, from this thread."""
    answers: list[Future[Said]] = [Future() for _ in devices]
    waiting: SimpleQueue[tuple[Device, Future[Said]]] = SimpleQueue()
    for pair in zip(devices, answers, strict=True):
        waiting.put(pair)

    def work() -> None:
        with suppress(Empty):
            while True:
                _answer(ask, *waiting.get_nowait())

    for _ in range(min(most, len(devices))):
        # A daemon: Python would wait for the threads of a pool even at its own end.
        Thread(target=work, daemon=True).start()
    for answer in as_completed(answers):
        each(answer.result())
    return [answer.result() for answer in answers]


def _answer(ask: Callable[[Device], Said], device: Device, answer: Future[Said]) -> None:
    try:
        answer.set_result(ask(device))
    except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is taken
        answer.set_exception(error)
