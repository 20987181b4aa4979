"""The chain of what operators did: whatever is done to a line of it is found."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.rollout import audit

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ACTS = st.lists(st.tuples(st.text(), st.text(), st.dictionaries(st.text(), PLAIN, max_size=3)), max_size=8)


def chain(acts):
    lines = []
    prev = audit.BEGINNING
    for number, (who, action, facts) in enumerate(acts):
        lines.append(audit.line(prev, f"2026-01-01T00:00:{number:02}Z", who, action, facts))
        prev = audit.digest(lines[-1])
    return lines


CHAINS = ACTS.filter(bool).map(chain)


@given(ACTS)
def test_what_was_written_is_whole_and_says_what_was_done(acts):
    lines = chain(acts)
    found = audit.verify(lines)

    assert found == audit.Verdict(len(acts), audit.digest(lines[-1]) if lines else audit.BEGINNING)
    for text, (who, action, facts) in zip(lines, acts, strict=True):
        said = audit.read(text)
        assert (said["who"], said["action"]) == (who, action)
        assert all(said[key] == facts[key] for key in facts if key not in ("at", "who", "action", "prev"))


@given(CHAINS, st.data())
def test_every_head_that_was_noted_is_found_as_long_as_the_chain_grows(lines, data):
    noted = data.draw(st.sampled_from(lines))

    assert audit.verify(lines, audit.digest(noted)).broken is None


@given(CHAINS, st.data())
def test_a_byte_that_changed_is_found(lines, data):
    at = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[at]) - 2))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (10, lines[at][place])))
    changed = [*lines]
    changed[at] = lines[at][:place] + bytes([other]) + lines[at][place + 1 :]

    assert audit.verify(changed, audit.verify(lines).head).broken is not None
    if at < len(lines) - 1:
        assert audit.verify(changed).broken.line in (at + 1, at + 2)


@given(CHAINS, st.text(), st.data())
def test_a_line_that_says_another_thing_is_found_though_it_is_bound_to_the_one_before(lines, other, data):
    at = data.draw(st.integers(0, len(lines) - 1))
    said = audit.read(lines[at])
    assume(said["action"] != other)
    forged = audit.line(said["prev"], said["at"], said["who"], other, {})
    changed = [*lines[:at], forged, *lines[at + 1 :]]

    assert audit.verify(changed, audit.verify(lines).head).broken is not None
    if at < len(lines) - 1:
        assert audit.verify(changed).broken.line == at + 2


@given(CHAINS, st.data())
def test_a_line_that_was_removed_is_found(lines, data):
    at = data.draw(st.integers(0, len(lines) - 1))
    without = lines[:at] + lines[at + 1 :]

    broken = audit.verify(without, audit.verify(lines).head).broken
    assert broken is not None
    if at < len(lines) - 1:
        assert audit.verify(without).broken == broken
        assert broken.line == at + 1


@given(CHAINS, ACTS.filter(bool), st.data())
def test_a_line_that_was_put_in_is_found(lines, others, data):
    at = data.draw(st.integers(0, len(lines) - 1))
    prev = audit.BEGINNING if at == 0 else audit.digest(lines[at - 1])
    who, action, facts = others[0]
    added = audit.line(prev, "2027-01-01T00:00:00Z", who, action, facts)

    broken = audit.verify([*lines[:at], added, *lines[at:]]).broken
    assert broken.line == at + 2
    assert "put in" in broken.why


@given(CHAINS.filter(lambda lines: len(lines) > 1), st.data())
def test_lines_that_were_swapped_are_found(lines, data):
    one = data.draw(st.integers(0, len(lines) - 2))
    other = data.draw(st.integers(one + 1, len(lines) - 1))
    swapped = [*lines]
    swapped[one], swapped[other] = lines[other], lines[one]

    assert audit.verify(swapped).broken.line == one + 1


@given(CHAINS, st.data())
def test_an_end_that_was_cut_off_shows_only_against_a_head_that_was_noted(lines, data):
    left = lines[: data.draw(st.integers(0, len(lines) - 1))]

    assert audit.verify(left).broken is None
    assert audit.verify(left, audit.verify(lines).head).broken is not None


@given(ACTS.filter(bool), ACTS.filter(bool))
def test_a_chain_written_anew_shows_only_against_a_head_that_was_noted(acts, others):
    lines, anew = chain(acts), chain(others)
    assume(anew[: len(lines)] != lines)

    assert audit.verify(anew).broken is None
    assert audit.verify(anew, audit.verify(lines).head).broken is not None


@given(CHAINS, st.data())
def test_a_line_whose_writing_was_cut_short_is_named(lines, data):
    short = lines[-1][: data.draw(st.integers(1, len(lines[-1]) - 1))]

    broken = audit.verify([*lines[:-1], short]).broken
    assert (broken.line, "torn" in broken.why) == (len(lines), True)


@given(st.lists(st.binary().map(lambda each: each.replace(b"\n", b"") + b"\n"), max_size=5))
def test_no_bytes_make_the_judge_fail(lines):
    audit.verify(lines)


@given(st.binary(min_size=1, max_size=10_000))
def test_what_is_left_of_a_torn_line_is_kept_and_is_plain(piece):
    said = json.loads(json.dumps(audit.torn(piece)))

    assert said["bytes"] == len(piece)
    assert len(audit.line(audit.BEGINNING, "", "", audit.TORN, said)) < 40_000


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["deploy", "f.yaml", "--release", "a:1"], ["deploy", "f.yaml", "--release", "a:1"]),
        (["--api-key", "abc", "--yes"], ["--api-key", "***", "--yes"]),
        (["--api-key", "-abc"], ["--api-key", "***"]),
        (["--hub-token=abc=d"], ["--hub-token=***"]),
        (["--PASSWORD", "--x"], ["--PASSWORD", "***"]),
        (["--tokens", "512", "--key", "keys/root"], ["--tokens", "512", "--key", "keys/root"]),
        (["https://ada:pw@host/v2", "x://y"], ["https://***@host/v2", "x://y"]),
        (["Authorization: Bearer abc.def"], ["Authorization: ***"]),
        (["hf_abcdefghijkl"], ["***"]),
    ],
)
def test_secrets_in_a_command_line_are_struck_out(words, kept):
    assert audit.without_secrets(words) == kept


@given(st.lists(st.text(min_size=1, max_size=9)), st.text("abcdefghij0123456789-_=/", min_size=20))
def test_what_an_option_called_like_a_secret_is_given_never_gets_in(words, secret):
    for given_so in ([*words, "--plain"], [*words, "--", "plain"]):
        kept = audit.without_secrets([*given_so, "-k", "--client-secret", secret, f"--token={secret}", "end"])

        assert secret not in "\n".join(kept)
        assert kept[-1] == "end"
