"""Work in a child process: what comes back, and what is said of a child that dies."""

import multiprocessing
import operator

import pytest

from slmops.build.isolate import Child, gather, isolate, silent
from slmops.errors import BuildError

# A child imports what it runs by name, so the work here is the standard library's own.


def test_the_result_comes_back():
    assert isolate("the work", operator.is_not, silent, None) is True


def test_progress_is_heard_while_the_child_works():
    heard = []
    isolate("the work", operator.call, lambda *said: heard.append(said), "halving", 0.5)
    assert heard == [("halving", 0.5)]


def test_what_the_child_prints_is_not_heard(capfd):
    isolate("the work", print, silent, "noise")
    assert capfd.readouterr() == ("", "")


def test_a_child_that_fails_is_quoted():
    with pytest.raises(
        BuildError, match=r"(?s)the work failed; its last words:.*TypeError: unsupported operand"
    ) as failed:
        isolate("the work", operator.add, silent, 1)
    assert "last words" in failed.value.remedy


def test_the_results_of_several_come_back_in_their_order():
    with Child("one", operator.is_not, None) as one, Child("another", operator.is_, None) as another:
        assert gather([one, another], silent) == [True, False]


def test_the_failure_of_one_is_the_failure_of_all():
    with (
        Child("one", operator.is_not, None) as one,
        Child("another", operator.add, 1) as another,
        pytest.raises(BuildError, match="another failed"),
    ):
        gather([one, another], silent)
    assert multiprocessing.active_children() == []


def test_one_beside_that_has_ended_well_is_not_missed():
    with Child("one", operator.is_not, None) as one, Child("beside", operator.is_, None) as beside:
        gather([beside], silent)
        assert gather([one], silent, beside) == [True]


def test_a_child_that_ends_before_it_begins_is_a_build_error_too():
    with Child("the work", operator.is_not, None) as child:
        multiprocessing.active_children()[0].kill()
        with pytest.raises(BuildError, match=r"(?s)the work was ended by SIGKILL.*\(none\)"):
            gather([child], silent)
