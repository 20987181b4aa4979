"""Call what follows its input by recursion on a stack that is deep enough for it.

Foreign code that overruns its stack ends the process. It does not know what is called; how deep that may go,
its caller bounds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

STACK = 128 * 1024 * 1024
"""Bytes of stack: the system gives memory for what is used alone, and takes it back at the end."""
T = TypeVar("T")
_stacks = threading.Lock()


def deep(make: Callable[[], T]) -> T:
    """Return what `make` makes in a thread with a deep stack; raise what it raises."""
    with ThreadPoolExecutor(1, thread_name_prefix="deep") as alone:
        with _stacks:
            usual = threading.stack_size(STACK)
            try:
                made = alone.submit(make)
            finally:
                threading.stack_size(usual)
        return made.result()
