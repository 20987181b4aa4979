import signal
import subprocess
import sys
import threading

import pytest

from slmops.fleet.ask_all import ask_all
from slmops.fleet.inventory import Device

DEVICES = [Device(f"edge-{number}", "nowhere") for number in range(6)]
FOR_EVER = """
import signal
from threading import Event
from slmops.fleet.ask_all import ask_all
from slmops.fleet.inventory import Device
def ask(device):
    print("asking", flush=True)
    Event().wait()
signal.signal(signal.SIGINT, signal.default_int_handler)
ask_all([Device("edge-1", "nowhere")], ask, 4)
"""


def test_answers_come_in_the_order_of_the_devices_and_are_told_as_they_come():
    told = []

    names = ask_all(DEVICES, lambda device: device.name, 2, told.append)

    assert names == [device.name for device in DEVICES]
    assert sorted(told) == names


def test_so_many_are_asked_at_once_and_no_more():
    together = threading.Barrier(3)

    assert ask_all(DEVICES, lambda _: together.wait(30) < 3, 3) == [True] * 6


def test_nobody_to_ask_is_answered_at_once():
    assert ask_all([], lambda device: device.name, 4) == []


def test_what_fails_for_one_is_raised():
    def ask(device):
        if device.name == "edge-3":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_all(DEVICES, ask, 2)


def test_who_leaves_waits_for_nobody():
    words = [sys.executable, "-c", FOR_EVER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
        assert asking.stdout.readline() == "asking\n"
        asking.send_signal(signal.SIGINT)
        _, said = asking.communicate(timeout=30)

    assert "KeyboardInterrupt" in said
