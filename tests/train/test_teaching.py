"""What can be asked of a teacher, and what only of one at hand."""

import pytest
from pydantic import ValidationError

from slmops.train.teaching import Teaching


def test_the_usual_teacher_is_recorded():
    assert Teaching().recorded


@pytest.mark.parametrize(
    "said", [{"hidden": 0.5}, {"on_policy": 0.2}, {"divergence": "reverse-kl"}, {"cache": "no"}]
)
def test_a_teacher_that_must_be_at_hand_or_loses_by_recording_is_not_recorded(said):
    assert not Teaching(**said).recorded


@pytest.mark.parametrize("said", [{"hidden": 0.5}, {"on_policy": 0.2}])
def test_a_recorded_teacher_is_not_asked_what_only_one_at_hand_can_tell(said):
    with pytest.raises(ValidationError, match=f"{next(iter(said))} needs the teacher at hand"):
        Teaching(cache="yes", **said)


@pytest.mark.parametrize("cache", ["auto", "yes", "no"])
def test_a_teacher_that_has_no_say_is_not_recorded(cache):
    silent = Teaching(weight=0, cache=cache)

    assert not silent.recorded
    assert not silent.asked
    assert Teaching(weight=0, hidden=0.5).asked


def test_a_recording_that_loses_something_can_be_asked_for():
    assert Teaching(divergence="jensen-shannon", cache="yes").recorded
