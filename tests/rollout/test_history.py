import pytest

from slmops.rollout.history import History


@pytest.fixture
def history(tmp_path):
    made = History(tmp_path / "state" / "rollouts.sqlite")
    yield made
    made.close()


def begin(history, release="parrot:1.0.0", waves=(["spare"], ["a"], ["b", "c"])):
    return history.begin("berlin", release, "sha256:00", waves)


def test_a_rollout_begins_planned_with_every_device_waiting(history):
    number = begin(history)

    entry = history.find(number)
    assert entry is not None
    assert (entry.fleet, entry.release, entry.digest) == ("berlin", "parrot:1.0.0", "sha256:00")
    assert (entry.state, entry.wave, entry.waves) == ("planned", 0, 2)
    assert [(line.device, line.wave, line.state) for line in history.devices(number)] == [
        ("spare", 0, "waiting"),
        ("a", 1, "waiting"),
        ("b", 2, "waiting"),
        ("c", 2, "waiting"),
    ]


def test_a_move_is_kept_with_its_wave(history):
    number = begin(history)

    history.moved(number, "soaking", 1)

    entry = history.find(number)
    assert entry is not None
    assert (entry.state, entry.wave) == ("soaking", 1)
    assert entry.changed >= entry.started


def test_what_a_device_told_is_kept_with_its_evidence(history):
    number = begin(history)
    evidence = {"failed": [{"question": "Grün?", "answer": "猫"}]}

    history.told(number, "b", "went back", "1 of 5 golden prompts failed", evidence)

    told = {line.device: line for line in history.devices(number)}
    assert (told["b"].state, told["b"].message) == ("went back", "1 of 5 golden prompts failed")
    assert told["b"].evidence == evidence
    assert (told["c"].state, told["c"].evidence) == ("waiting", {})


def test_the_latest_rollouts_come_newest_first_and_no_more_than_asked(history):
    numbers = [begin(history, f"parrot:{version}") for version in range(4)]

    assert [entry.id for entry in history.rollouts(3)] == numbers[:0:-1]


def test_a_rollout_is_found_by_number_and_the_latest_without_one(history):
    first, second = begin(history), begin(history, "parrot:2")

    assert history.find(first).id == first
    assert history.find(None).id == second
    assert history.find(99) is None


def test_an_empty_history_has_no_latest(history):
    assert history.find(None) is None
    assert history.rollouts() == []


def test_rollouts_do_not_mix_their_devices(history):
    first, second = begin(history), begin(history)

    history.told(second, "a", "committed")

    assert {line.device: line.state for line in history.devices(first)}["a"] == "waiting"


def test_what_was_written_is_there_for_who_opens_the_file_next(history, tmp_path):
    number = begin(history)
    history.told(number, "a", "committed")

    again = History(tmp_path / "state" / "rollouts.sqlite")

    assert again.find(number) == history.find(number)
    assert again.devices(number) == history.devices(number)
    again.close()


@pytest.mark.usefixtures("history")
def test_the_folder_is_made_for_its_owner_alone(tmp_path):
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
