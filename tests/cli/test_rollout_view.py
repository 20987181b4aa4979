import re

import pytest
from _course import BEGAN, course
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from slmops.cli.rollout_view import BAR, apportion, bar, counted, doing, draw, happened
from slmops.rollout.history import Happening
from slmops.rollout.tally import Sort
from slmops.rollout.timeline import elapsed


def shown(made, at, *, width=110, height=30):
    console = Console(
        width=width, highlight=False, force_terminal=True, color_system=None, record=True, quiet=False
    )
    with console.capture() as captured:
        console.print(draw(made.entry, made.lines, made.events, at, height=height))
    return captured.get()


@pytest.mark.parametrize(("devices", "until"), [(1, 8), (30, 107), (1000, 300), (1000, 1500)])
def test_the_picture_says_how_far_each_wave_is(devices, until):
    made = course(devices, until=until)

    text = shown(made, BEGAN + until)

    waves = [[line for line in made.lines if line.wave == 1 + wave] for wave in range(made.entry.waves)]
    ended = [sum(line.state == "committed" for line in wave) for wave in waves]
    assert re.findall(r"(\d+/\d+)", text.replace(",", "")) == [
        f"{done}/{len(wave)}" for done, wave in zip(ended, waves, strict=True)
    ]
    assert "rollout 12  parrot:1.3.0 to berlin" in text


def test_those_under_way_are_shown_with_how_far_they_are_and_those_beyond_the_room_are_counted():
    made = course(30, until=107)
    busy = [line for line in made.lines if line.state in ("sending", "staged", "trial", "proved")]
    (sending, *_), (trial, *_) = ([x for x in busy if x.state == state] for state in ("sending", "trial"))

    text = shown(made, BEGAN + 107, height=40)

    assert re.search(rf"{sending.device}  sending .*model.gguf: \d+.\d+ MB of 48.00 MB", text)
    assert re.search(rf"{trial.device}  trial .*golden prompt 2 of 5", text)
    assert f"+ {len(busy) - 3} more" in shown(made, BEGAN + 107, height=10)


@settings(max_examples=30)
@given(st.sampled_from([1, 2, 30, 250]), st.integers(0, 500), st.integers(40, 200), st.integers(5, 60))
def test_the_picture_fits_the_terminal_at_any_moment(devices, until, width, height):
    made = course(devices, sick=(devices - 1,), until=until)

    lines = shown(made, BEGAN + until, width=width, height=height).splitlines()

    assert all(len(line) <= width for line in lines)
    assert width < 80 or len(lines) <= max(height, 3 + 1 + 5 + 9 + made.entry.waves)


def test_what_went_wrong_is_to_be_seen():
    made = course(30, sick=(20,), lost=(22,))

    text = shown(made, made.entry.changed)

    assert f"went back  {elapsed(round(made.entry.changed - BEGAN))}" in text
    assert "1 bad  1 unknown" in text
    assert "15 committed, 1 went back, 1 lost, 13 returned" in text
    assert "left" not in text


@given(st.dictionaries(st.sampled_from(list(Sort)), st.integers(1, 10**6)))
def test_every_sort_has_a_part_of_the_bar_and_together_they_fill_it(counts):
    cells = apportion(counts, BAR)

    assert sum(cells.values()) == (BAR if counts else 0)
    assert all(count >= 1 for count in cells.values())


def test_a_wave_without_devices_has_no_bar():
    assert bar([]).plain == ""


def test_counts_begin_with_those_that_are_good():
    assert counted(course(30, sick=(20,)).lines).startswith("15 committed, 1 went back, ")


@pytest.mark.parametrize(
    ("said", "text"),
    [({}, ""), ({"step": "golden", "number": 1, "of": 3}, "golden prompt 1 of 3"),
     ({"step": "loading"}, "loading"),
     ({"step": "cut", "times": 1, "most": 5}, "the link broke; trying again (1 of 5)")],
)  # fmt: skip
def test_progress_is_said_in_words(said, text):
    assert doing(said) == text


def test_a_message_is_words_and_never_markup():
    line = happened(Happening(1, BEGAN, "edge", "failed [red]no[/red] such file"))

    assert line.plain.endswith("edge              failed  [red]no[/red] such file")
