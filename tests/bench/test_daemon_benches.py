"""The benchmarks of the daemon run, on the demo model for seconds; what they measure is not judged here."""

import subprocess
import sys
from pathlib import Path

import _load
import _served
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = [pytest.mark.timeout(300)]
BENCH = Path(__file__).parents[2] / "bench"


def got(**said):
    plain = {"client": 0, "sent": 10.0, "status": 200, "first": 10.5, "ended": 12.5, "tokens": 5}
    return _load.Got(**{**plain, "finish": "length", "error": "", **said})


@pytest.mark.journey
@pytest.mark.parametrize("name", ["swaps", "bad_versions", "router_kills", "daemon"])
def test_it_runs_and_nothing_is_lost(name, room):
    words = [sys.executable, str(BENCH / f"{name}.py"), "--quick", "--room", str(room)]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "goal" in done.stdout


@pytest.mark.journey
def test_bad_company_makes_no_good_request_fail(room):
    words = [sys.executable, str(BENCH / "soak.py"), "--quick", "--room", str(room)]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "leave" in done.stdout


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_one_of_the_values_and_that_share_stays_within_it(values, share):
    found = _load.quantile(values, share)

    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)


def test_an_answer_without_a_reason_to_end_or_with_an_error_is_not_good():
    assert got().good
    assert not got(finish="").good
    assert not got(status=503).good
    assert not got(error="no answer").good


def test_speed_counts_the_tokens_after_the_first_and_a_rate_all_of_them():
    assert _load.pace([got()], 64) == pytest.approx(2.0)
    assert _load.pace([got(tokens=0)], 9) == pytest.approx(4.0)
    assert _load.rate([got(), got(client=1, ended=15.0)], 64) == pytest.approx(2.0)


def test_a_process_tree_holds_the_children_of_children():
    words = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE) as process:
        while len(found := _served.tree(process.pid)) < 2:
            pass
        assert found[0] == process.pid
        process.communicate(b"\n")
