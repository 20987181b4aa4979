"""How the router is brought from what it holds to what the standing wants."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slmops.device import steer
from slmops.device.steer import CANDIDATE, CURRENT, DROP, GATE, LOAD, PREVIOUS, PROMOTE, ROLLBACK, Verb
from slmops.device.trial import Standing, Trial

SLOTS = ["a", "b", "c", "d"]
ONE_WAY = {"runtime": ["python3"], "runtime_slot": None, "port": 0}


def on_trial(*, proved=False, settings=ONE_WAY, before="a"):
    """A standing with b on trial and `before` as its way back."""
    committed = Standing(slot=before, settings=ONE_WAY)
    return Standing("b", before, Trial("boot", 1.0, proved=proved), settings=settings, before=committed)


class Router:
    """Does what a router does with each verb, and keeps a router's laws."""

    def __init__(self, current, others, gated):
        self.resident, self.gated = {current, *others}, {current, *gated}
        self.labels = {CURRENT: current}

    def status(self):
        versions = [
            {"digest": f"sha256:{slot}", "resident": slot in self.resident, "gated": slot in self.gated}
            for slot in SLOTS
        ]
        labels = {label: f"sha256:{slot}" for label, slot in self.labels.items()}
        return {"labels": labels, "versions": versions}

    def do(self, verb):
        if verb.name == LOAD:
            self.resident.add(verb.slot)
        elif verb.name == GATE:
            assert verb.slot in self.resident
            self.gated.add(verb.slot)
        elif verb.name == PROMOTE:
            assert verb.slot in self.resident & self.gated
            self.labels = {CURRENT: verb.slot, PREVIOUS: self.labels[CURRENT]}
        elif verb.name == ROLLBACK:
            self.resident = self.resident - {self.labels[CURRENT]} | {self.labels[PREVIOUS]}
            self.labels = {CURRENT: self.labels[PREVIOUS]}
        else:
            assert verb.name == DROP
            assert verb.slot != self.labels[CURRENT]
            self.resident.discard(verb.slot)


def settled(router, wanted):
    """Do each verb that comes next; return them all."""
    done = []
    while (verb := steer.following(router.status(), wanted)) is not None:
        assert len(done) < 12, done
        router.do(verb)
        done.append(verb)
    return done


some = st.sampled_from(SLOTS)
wishes = st.one_of(
    st.builds(lambda slot: {CURRENT: slot}, some),
    st.lists(some, min_size=2, max_size=2, unique=True).map(lambda two: {CURRENT: two[0], CANDIDATE: two[1]}),
    st.lists(some, min_size=2, max_size=2, unique=True).map(lambda two: {CURRENT: two[0], PREVIOUS: two[1]}),
)
routers = st.builds(Router, some, st.sets(some), st.sets(some))


@given(routers, st.lists(wishes, min_size=1, max_size=6))
def test_whatever_a_router_holds_and_was_asked_before_it_comes_to_what_is_wanted(router, history):
    for wanted in history:
        settled(router, wanted)

        assert router.labels[CURRENT] == wanted[CURRENT]
        assert wanted[CURRENT] in router.resident
        assert wanted.get(CANDIDATE, wanted[CURRENT]) in router.resident
        assert router.resident <= set(wanted.values())


@given(routers, wishes)
def test_a_candidate_is_loaded_and_never_vouched_for(router, wanted):
    gated = set(router.gated)

    done = settled(router, wanted)

    assert all(verb.slot == wanted[CURRENT] for verb in done if verb.name in (GATE, PROMOTE, ROLLBACK))
    assert router.gated <= gated | {wanted[CURRENT]}


def test_a_swap_takes_a_load_a_verdict_and_a_promotion_and_the_way_back_is_one_verb():
    router = Router("a", [], [])

    trial = settled(router, steer.labels(on_trial()))
    proved = settled(router, steer.labels(on_trial(proved=True)))
    back = settled(router, steer.labels(Standing("a")))

    assert trial == [Verb(LOAD, "b")]
    assert proved == [Verb(GATE, "b"), Verb(PROMOTE, "b")]
    assert back == [Verb(ROLLBACK, "a")]


def test_the_version_before_stays_until_the_trial_is_confirmed():
    router = Router("a", ["b"], [])
    settled(router, steer.labels(on_trial(proved=True)))
    assert router.resident == {"a", "b"}

    assert settled(router, steer.labels(Standing("b", "a"))) == [Verb(DROP, "a")]


def test_a_candidate_that_current_had_to_leave_for_is_not_disturbed_and_after_it_current_comes_back():
    router = Router("a", ["b"], [])
    router.resident = {"b"}

    assert steer.following(router.status(), {CURRENT: "a", CANDIDATE: "b"}) is None
    assert settled(router, {CURRENT: "a"}) == [Verb(DROP, "b"), Verb(LOAD, "a")]


def test_a_version_that_loads_is_waited_for_unless_nobody_wants_it_any_more():
    status = Router("a", ["b"], []).status()
    status["versions"][1]["state"] = "loading"

    assert steer.following(status, {CURRENT: "b"}) is None
    assert steer.following(status, {CURRENT: "a"}) == Verb(DROP, "b")


def test_what_is_on_trial_stands_beside_what_serves_until_it_is_proved():
    assert steer.labels(on_trial()) == {CURRENT: "a", CANDIDATE: "b"}
    assert steer.labels(on_trial(proved=True)) == {CURRENT: "b", PREVIOUS: "a"}
    assert steer.labels(Standing("b", "a")) == {CURRENT: "b"}
    assert steer.labels(Standing()) == {}


def test_a_slot_with_nothing_before_it_or_run_another_way_is_started_alone():
    other = {**ONE_WAY, "runtime_slot": "r"}
    flags = {**ONE_WAY, "daemon": {"slots": 2}}

    assert steer.labels(on_trial(before=None)) == {CURRENT: "b"}
    assert steer.labels(on_trial(before="b")) == {CURRENT: "b"}
    assert steer.labels(on_trial(settings=other)) == {CURRENT: "b"}
    assert steer.labels(on_trial(settings=flags)) == {CURRENT: "b"}


@given(st.booleans(), st.sampled_from(["a", None]))
def test_what_serves_on_trial_is_vouched_for_only_where_it_was_proved_or_nothing_else_can_serve(
    proved, before
):
    standing = on_trial(proved=proved, before=before)

    serving = steer.labels(standing)[CURRENT]

    assert serving == ("b" if proved or before is None else "a")


def test_settings_of_before_the_flags_are_settings_without_flags():
    standing = on_trial(settings={**ONE_WAY, "daemon": {}})

    assert steer.labels(standing) == {CURRENT: "a", CANDIDATE: "b"}
    assert steer.labels(replace(standing, settings=None))[CURRENT] == "b"


def test_a_status_that_knows_no_such_slot_says_nothing_of_it():
    status = Router("a", [], []).status()

    assert steer.version(status, "a")["resident"]
    assert steer.version(status, "z") == steer.version(None, "a") == {}
