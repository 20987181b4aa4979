"""What the verbs do to labels, workers and the journal, whatever goes wrong; against a house of fakes.

A fake worker is in memory alone: what a version does when it is opened or asked is written in its folder's
name. The real one is in test_swap_journey.
"""

import asyncio
import dataclasses
import json
import os
from collections import deque
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.artifact.description import FILE_NAME, Description, render
from slmops.daemon import journal as journals
from slmops.daemon.enact import Bounds
from slmops.daemon.journal import Journal
from slmops.daemon.protocol import Done, Ready
from slmops.daemon.refusal import RefusedError
from slmops.daemon.room import Memory
from slmops.daemon.swap import Swap
from slmops.daemon.versions import fold, step
from slmops.errors import ModelError, SlmopsError

DIGESTS = {letter: f"sha256:{letter * 64}" for letter in "abcd"}
A, B, C, _ = DIGESTS.values()
BOUNDS = Bounds(load=0.2, gate=0.2, drain=0.0, alone=0.2)
SIZE = 40
PLAIN = Description(
    name="home",
    version="1.0.0",
    profile="local",
    arch="x86_64",
    format="gguf",
    type="Q8_0",
    model="model.gguf",
    architecture="llama",
    parameters=1,
    context=64,
    threads=1,
    micro_batch=8,
    memory_bytes=SIZE,
    golden="golden.jsonl",
)
READY = Ready(
    slots=1,
    pool=64,
    context=64,
    kinds=("completion",),
    scores=False,
    constrains=False,
    tools=False,
    seconds=0.0,
)


class FakeWorker:
    def __init__(self, version):
        self.version, self.ready, self.pid = version, READY, None
        self.state, self.crashes, self.last_exit, self.why = "ready", 0, None, ""
        self.words = deque(["it said this"])

    async def ask(self, kind, body, answer, created):  # noqa: ARG002 - the worker's own signature
        if "hangs-when-asked" in self.version.folder:
            await asyncio.Event().wait()
        text = "wrong" if "answers-wrongly" in self.version.folder else "four"
        said = {"choices": [{"text": text}]}
        yield Done(
            id=1,
            data=json.dumps(said).encode(),
            prompt_tokens=1,
            cached_tokens=0,
            output_tokens=1,
            finish="stop",
        )


class FakeHouse:
    def __init__(self, limit=None):
        self.workers, self.words, self.limit = {}, deque(), limit
        self.began = asyncio.Event()
        """Set once a load has begun that will not end."""
        self.ends = []
        """How often each digest was closed, in order."""

    @property
    def versions(self):
        return {digest: worker.version for digest, worker in self.workers.items()}

    def resident(self, digest):
        return self.workers.get(digest)

    async def open(self, version):
        await asyncio.sleep(0)
        if "hangs-at-load" in version.folder:
            self.began.set()
            await asyncio.Event().wait()
        if "corrupt" in version.folder:
            self.words = deque(["invalid magic"])
            raise ModelError("no model can be read")
        self.workers[version.digest] = FakeWorker(version)
        return self.workers[version.digest]

    async def close(self, digest, drain):  # noqa: ARG002 - the house's own signature
        await asyncio.sleep(0)
        if self.workers.pop(digest, None) is not None:
            self.ends.append(digest)

    def memory(self):
        return Memory(
            limit=self.limit, used=SIZE * len(self.workers), residents=dict.fromkeys(self.workers, SIZE)
        )


class Stage:
    """A swap, its house and its journal; versions are made as they are named."""

    def __init__(self, folder, limit=None, *, steered=False):
        self.folder = folder
        self.house = FakeHouse(limit)
        self.journal = Journal(folder / "state")
        self.swap = Swap(self.house, self.journal, memory=self.house.memory, bounds=BOUNDS, steered=steered)

    def make(self, what="good", **changes):
        there = self.folder / what
        there.mkdir(exist_ok=True)
        (there / FILE_NAME).write_bytes(render(dataclasses.replace(PLAIN, **changes)))
        golden = {"prompt": "2 + 2 =", "expect": "four"}
        (there / "golden.jsonl").write_text(json.dumps(golden) + "\n", encoding="utf-8")
        return there

    async def bring(self, digest, what="good"):
        await self.swap.load(str(self.make(what)), digest)
        await self.swap.gate(digest)
        return await self.swap.promote(digest)

    async def settled(self):
        """Wait until what follows a moved label is done."""
        while self.swap._tasks:
            await asyncio.gather(*self.swap._tasks, return_exceptions=True)

    @property
    def labels(self):
        return self.swap.state.labels

    def again(self, limit=None):
        """Return what a new router makes of the same disk."""
        self.journal.close()
        return Stage(self.folder, limit)


def run(story):
    """Return a test that plays an async story on a stage."""

    def test(tmp_path):
        async def play():
            stage = Stage(tmp_path)
            await stage.swap.begin(stage.make(), A)
            await story(stage)
            await stage.swap.end()
            stage.journal.close()
            assert fold(journals.read(tmp_path / "state")) == stage.journal.state

        asyncio.run(play())

    return test


async def refused(work, status, reason=None):
    with pytest.raises(RefusedError) as caught:
        await work
    assert caught.value.status == status
    assert reason in (None, caught.value.reason)
    return str(caught.value)


@run
async def test_what_the_router_was_started_with_serves_and_is_vouched_for(stage):
    assert stage.labels == {"current": A}
    assert stage.swap.state.stage(A).gated == "starter"


@run
async def test_a_version_comes_in_beside_current_and_what_was_current_stays_resident(stage):
    told = await stage.swap.load(str(stage.make("next")), B)
    assert told["plan"] == "parallel"
    assert stage.labels == {"current": A, "candidate": B}
    assert (await stage.swap.gate(B))["outcome"] == "pass"
    assert (await stage.swap.promote(B))["changed"]
    await stage.settled()
    assert stage.labels == {"current": B, "previous": A}
    assert set(stage.house.workers) == {A, B}


@run
async def test_every_verb_done_again_changes_nothing_and_says_so(stage):
    folder = str(stage.make("next"))
    await stage.swap.load(folder, B)
    assert not (await stage.swap.load(folder, B))["changed"]
    await stage.swap.gate(B)
    assert not (await stage.swap.gate(B))["changed"]
    await stage.swap.promote(B)
    assert not (await stage.swap.promote(B))["changed"]
    await stage.swap.roll_back("it is worse")
    assert not (await stage.swap.roll_back("it is worse"))["changed"]
    await stage.settled()
    await stage.swap.drop(B)
    assert not (await stage.swap.drop(B))["changed"]
    assert stage.labels == {"current": A}


@run
async def test_a_third_version_ends_the_one_before_the_last(stage):
    await stage.bring(B)
    await stage.bring(C)
    await stage.settled()
    assert stage.labels == {"current": C, "previous": B}
    assert set(stage.house.workers) == {B, C}


@run
async def test_another_candidate_takes_the_place_of_the_one_before(stage):
    await stage.swap.load(str(stage.make()), B)
    await stage.swap.load(str(stage.make()), C)
    assert stage.labels == {"current": A, "candidate": C}
    assert set(stage.house.workers) == {A, C}


@run
async def test_nobody_promotes_what_has_passed_no_gate(stage):
    await stage.swap.load(str(stage.make()), B)
    assert "passed no gate" in await refused(stage.swap.promote(B), 409)
    assert "not loaded" in await refused(stage.swap.promote(C), 409)
    assert stage.labels["current"] == A


@run
async def test_nobody_promotes_what_has_stopped_being_ready(stage):
    await stage.swap.load(str(stage.make()), B)
    await stage.swap.gate(B)
    stage.house.workers[B].state = "restarting"
    assert "being started again" in await refused(stage.swap.promote(B), 409)


@pytest.mark.parametrize(
    ("what", "why"), [("corrupt", "no model can be read"), ("hangs-at-load", "within 0.2 s")]
)
def test_what_does_not_load_leaves_its_evidence_and_current_serving(tmp_path, what, why):
    @run
    async def story(stage):
        assert why in await refused(stage.swap.load(str(stage.make(what)), B), 422, "does_not_load")
        assert stage.labels == {"current": A}
        assert set(stage.house.workers) == {A}
        failure = stage.swap.state.stage(B).failure
        assert why in failure["why"]
        assert failure["evidence"]["log"] == (["invalid magic", failure["why"]] if what == "corrupt" else [])

    story(tmp_path)


@run
async def test_a_folder_that_is_no_artifact_does_not_load(stage):
    assert "not an artifact folder" in await refused(stage.swap.load("/nowhere", B), 422)
    assert stage.swap.state.stage(B).failure["evidence"] == {"folder": "/nowhere"}


@run
async def test_what_fails_its_gate_is_ended_with_its_answers_kept(stage):
    await stage.swap.load(str(stage.make("answers-wrongly")), B)
    told = await stage.swap.gate(B)
    assert told["outcome"] == "fail"
    assert told["failed"][0]["answer"] == "wrong"
    assert stage.labels == {"current": A}
    assert set(stage.house.workers) == {A}
    failure = stage.swap.state.stage(B).failure
    assert failure["evidence"]["gate"]["failed"][0]["expected"] == "four"
    assert failure["evidence"]["log"] == ["it said this"]
    again = await stage.swap.gate(B, {"outcome": "fail", "by": "agent"})
    assert (again["outcome"], again["changed"]) == ("fail", False)


@run
async def test_what_hangs_when_asked_is_in_doubt_and_not_promoted(stage):
    await stage.swap.load(str(stage.make("hangs-when-asked")), B)
    assert (await stage.swap.gate(B))["outcome"] == "inconclusive"
    assert stage.labels == {"current": A, "candidate": B}
    assert "within" in stage.swap.state.stage(B).failure["why"]
    await refused(stage.swap.promote(B), 409)


@run
async def test_somebody_elses_verdict_counts_as_a_gate(stage):
    await stage.swap.load(str(stage.make("answers-wrongly")), B)
    await stage.swap.gate(B, {"outcome": "pass", "by": "agent", "message": "10 of 10"})
    assert stage.swap.state.stage(B).gated == "agent"
    await stage.swap.promote(B)
    await refused(stage.swap.gate(B, {"outcome": "fail"}), 409, "in_use")


@run
async def test_a_rollback_moves_at_once_and_ends_what_was_rolled_back(stage):
    await stage.bring(B)
    told = await stage.swap.roll_back("errors")
    assert told == {"digest": A, "withdrawn": B, "changed": True}
    await stage.settled()
    assert stage.labels == {"current": A}
    assert stage.house.ends == [B]
    failure = stage.swap.state.stage(B).failure
    assert failure["why"] == "errors"
    assert failure["evidence"]["state"] == "ready"


@run
async def test_a_rollback_does_not_wait_for_a_load(stage):
    await stage.bring(B)
    await stage.settled()
    loading = asyncio.create_task(stage.swap.load(str(stage.make("hangs-at-load")), C))
    await stage.house.began.wait()
    await stage.swap.roll_back()
    assert not loading.done()
    assert stage.labels == {"current": A}
    await refused(loading, 422)


@run
async def test_a_rollback_loads_previous_where_it_was_dropped(stage):
    await stage.bring(B)
    await stage.settled()
    await stage.swap.drop(A)
    assert stage.labels == {"current": B, "previous": A}
    assert (await stage.swap.roll_back())["digest"] == A
    assert stage.labels == {"current": A}


@run
async def test_a_rollback_to_a_folder_that_is_gone_leaves_current_serving(stage):
    await stage.swap.load(str(stage.make("next")), B)
    await stage.swap.gate(B)
    await stage.swap.promote(B)
    await stage.settled()
    await stage.swap.drop(A)
    (stage.folder / "good" / FILE_NAME).unlink()
    await refused(stage.swap.roll_back(), 422)
    assert stage.labels == {"current": B, "previous": A}
    assert stage.house.resident(B) is not None


@run
async def test_there_is_no_way_back_from_the_first_version(stage):
    await refused(stage.swap.roll_back(), 409, "no_previous")


@run
async def test_current_is_not_dropped(stage):
    await refused(stage.swap.drop(A), 409, "in_use")


@run
async def test_what_is_promoted_while_it_is_about_to_be_ended_is_not_ended(stage):
    await stage.swap.load(str(stage.make()), B)
    await stage.swap.gate(B)
    loading = asyncio.create_task(stage.swap.load(str(stage.make("other")), C))
    promoting = asyncio.create_task(stage.swap.promote(B))
    await asyncio.gather(loading, promoting, return_exceptions=True)
    await stage.settled()
    assert stage.house.resident(stage.labels["current"]) is not None


@run
async def test_shares_go_only_to_what_is_gated(stage):
    await stage.swap.load(str(stage.make()), B)
    await refused(stage.swap.deal({"current": 9.0, "candidate": 1.0}, {}), 409, "not_gated")
    assert (await stage.swap.deal({}, {"candidate": 0.5}))["shadow"] == {"candidate": 0.5}
    await stage.swap.gate(B)
    told = await stage.swap.deal({"current": 9.0, "candidate": 1.0}, {})
    assert told == {"split": {"current": 9.0, "candidate": 1.0}, "shadow": {}, "changed": True}
    assert not (await stage.swap.deal({"current": 9.0, "candidate": 1.0}, {}))["changed"]


@run
async def test_a_current_whose_worker_is_broken_gives_way_to_previous(stage):
    await stage.bring(B)
    stage.house.workers[B].state, stage.house.workers[B].why = "broken", "SIGSEGV"
    await stage.swap.broke(B)
    await stage.settled()
    assert stage.labels == {"current": A}
    assert set(stage.house.workers) == {A}
    assert stage.swap.state.stage(B).failure["evidence"]["why"] == "SIGSEGV"


@run
async def test_a_candidate_whose_worker_is_broken_is_ended(stage):
    await stage.swap.load(str(stage.make()), B)
    stage.house.workers[B].state = "broken"
    await stage.swap.broke(B)
    await stage.swap.broke(B)
    assert stage.labels == {"current": A}
    assert set(stage.house.workers) == {A}


def test_where_labels_are_steered_nothing_falls_back_by_itself(tmp_path):
    async def play():
        stage = Stage(tmp_path, steered=True)
        await stage.swap.begin(stage.make(), A)
        await stage.bring(B)
        await stage.settled()
        await stage.swap.broke(B)
        assert stage.labels == {"current": B, "previous": A}
        stage.make("good").joinpath(FILE_NAME).unlink()
        stage.house.workers.pop(B)
        with pytest.raises(RefusedError, match="nothing serves"):
            await stage.swap._hand.serve_again()
        assert stage.labels == {"current": B, "previous": A}
        await stage.swap.end()
        stage.journal.close()

    asyncio.run(play())


@run
async def test_previous_that_is_resident_serves_where_current_does_not_load_any_more(stage):
    await stage.bring(B, "other")
    await stage.settled()
    await stage.swap._hand.fail(B, "it went")
    stage.house.workers.pop(B)
    (stage.folder / "other" / FILE_NAME).unlink()
    await stage.swap._hand.serve_again()
    assert stage.labels == {"current": A}


@run
async def test_a_load_that_nobody_wants_any_more_is_broken_off(stage):
    stage.swap._hand.bounds = dataclasses.replace(BOUNDS, load=60.0)
    loading = asyncio.create_task(stage.swap.load(str(stage.make("hangs-at-load")), B))
    await stage.house.began.wait()
    await stage.swap.drop(B)
    await refused(loading, 409, "dropped")
    assert stage.labels == {"current": A}
    stage.house.limit, stage.house.began = 60, asyncio.Event()
    loading = asyncio.create_task(stage.swap.load(str(stage.make("hangs-at-load")), B))
    await stage.house.began.wait()
    await stage.swap.drop(B)
    await refused(loading, 409, "dropped")
    assert set(stage.house.workers) == {A}


@run
async def test_what_does_not_fit_even_alone_is_refused_with_its_numbers(stage):
    stage.house.limit = 100
    said = await refused(stage.swap.load(str(stage.make("big", memory_bytes=101)), B), 409, "does_not_fit")
    assert "MiB" in said
    evidence = stage.swap.state.stage(B).failure["evidence"]
    assert (evidence["estimate"], evidence["free"], evidence["limit"]) == (101, 60, 100)
    assert "the router takes" in said
    assert stage.swap.state.stage(B).release
    assert set(stage.house.workers) == {A}


@run
async def test_what_was_measured_of_a_version_before_counts_more_than_its_promise(stage):
    stage.house.limit = 100
    stage.journal.write({"kind": "loading", "digest": B, "at": 1.0})
    stage.journal.write({"kind": "loaded", "digest": B, "at": 1.0, "memory": 101})
    stage.journal.write({"kind": "dropped", "digest": B, "at": 1.0})
    await refused(stage.swap.load(str(stage.make()), B), 409, "does_not_fit")


@run
async def test_without_room_for_both_previous_leaves_first_and_then_current(stage):
    stage.house.limit = 100
    await stage.bring(B)
    await stage.settled()
    told = await stage.swap.load(str(stage.make()), C)
    assert told["plan"] == "parallel"
    assert stage.house.ends == [A]
    stage.house.limit = 70
    told = await stage.swap.load(str(stage.make("other")), DIGESTS["d"])
    assert told["plan"] == "sequential"
    assert stage.labels["current"] == B
    assert set(stage.house.workers) == {DIGESTS["d"]}
    await stage.swap.gate(DIGESTS["d"])
    await stage.swap.promote(DIGESTS["d"])
    assert stage.labels == {"current": DIGESTS["d"], "previous": B}


@pytest.mark.parametrize("what", ["corrupt", "hangs-at-load", "answers-wrongly", "hangs-when-asked"])
def test_what_fails_in_the_place_of_current_brings_current_back(tmp_path, what):
    @run
    async def story(stage):
        stage.house.limit = 60
        try:
            await stage.swap.load(str(stage.make(what)), B)
            await stage.swap.gate(B)
        except RefusedError:
            assert what in ("corrupt", "hangs-at-load")
        await stage.settled()
        assert stage.labels == {"current": A}
        assert set(stage.house.workers) == {A}
        assert stage.swap.state.stage(B).failure["why"]

    story(tmp_path)


@run
async def test_current_comes_back_when_its_place_is_given_up(stage):
    stage.house.limit = 60
    await stage.swap.load(str(stage.make()), B)
    await stage.swap.drop(B)
    assert set(stage.house.workers) == {A}
    await stage.swap.load(str(stage.make()), B)
    await stage.swap.load(str(stage.make()), C)
    assert stage.labels == {"current": A, "candidate": C}
    assert set(stage.house.workers) == {C}


def test_a_full_disk_stops_a_load_before_anything_has_changed_and_no_rollback(tmp_path):
    async def play():
        stage = Stage(tmp_path)
        await stage.swap.begin(stage.make(), A)
        await stage.bring(B)
        await stage.settled()
        os.dup2(os.open("/dev/full", os.O_RDWR), stage.journal._file)
        with pytest.raises(SlmopsError, match="No space left"):
            await stage.swap.load(str(stage.make()), C)
        assert set(stage.house.workers) == {A, B}
        await stage.swap.roll_back()
        assert stage.labels == {"current": A}
        await stage.swap.end()
        stage.journal.close()

    asyncio.run(play())


async def live(folder, verbs, limit):
    """Play verbs, in whatever order, and see that something serves at the end."""
    stage = Stage(folder, limit)
    await stage.swap.begin(stage.make(), A)
    for verb, digest, what in verbs:
        with suppress(RefusedError):
            if verb == "load":
                await stage.swap.load(str(stage.make(what)), digest)
            elif verb == "roll_back":
                await stage.swap.roll_back()
            else:
                await getattr(stage.swap, verb)(digest)
    await stage.settled()
    assert stage.house.resident(stage.labels["current"]) is not None
    await stage.swap.end()
    stage.journal.close()


async def return_after(folder, records):
    """Start again with no more than the first records on disk, and see that what serves was gated."""
    file = folder / "state" / journals.FILE_NAME
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:records]))
    before = fold(journals.read(folder / "state"))
    stage = Stage(folder)
    await stage.swap.begin(stage.make(), A)
    assert stage.labels["current"] in (before.current, before.previous, A)
    assert stage.swap.state.stage(stage.labels["current"]).gated
    assert set(stage.house.workers) == {stage.labels["current"]}
    await stage.swap.end()
    stage.journal.close()
    file.write_bytes(whole)


VERBS = st.tuples(
    st.sampled_from(["load", "gate", "promote", "roll_back", "drop"]),
    st.sampled_from([A, B, C]),
    st.sampled_from(["good", "corrupt", "answers-wrongly"]),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(VERBS, max_size=8), st.sampled_from([None, 60]))
def test_a_router_ended_after_any_record_comes_back_with_a_gated_version(tmp_path_factory, verbs, limit):
    folder = tmp_path_factory.mktemp("stage")
    asyncio.run(live(folder, verbs, limit))
    for records in range(len(journals.read(folder / "state")) + 1):
        asyncio.run(return_after(folder, records))


def test_what_was_only_a_candidate_is_none_after_a_restart_and_previous_can_still_be_gone_back_to(tmp_path):
    async def play():
        stage = Stage(tmp_path)
        await stage.swap.begin(stage.make(), A)
        await stage.bring(B, "next")
        await stage.swap.load(str(stage.make("third")), C)
        await stage.swap.gate(C)
        await stage.swap.end()
        again = stage.again()
        await again.swap.begin(again.make(), A)
        assert again.labels == {"current": B, "previous": A}
        assert set(again.house.workers) == {B}
        await again.swap.roll_back()
        assert again.labels == {"current": A}
        again.journal.close()

    asyncio.run(play())


def test_where_current_has_rotted_previous_serves_and_the_reason_is_kept(tmp_path):
    async def play():
        stage = Stage(tmp_path)
        await stage.swap.begin(stage.make(), A)
        await stage.bring(B, "next")
        await stage.swap.end()
        (tmp_path / "next" / FILE_NAME).write_text("{", encoding="ascii")
        again = stage.again()
        await again.swap.begin()
        assert again.labels == {"current": A}
        assert "not JSON" in again.swap.state.stage(B).failure["why"]
        again.journal.close()

    asyncio.run(play())


def test_where_nothing_loads_the_start_fails_and_says_why(tmp_path):
    async def play():
        stage = Stage(tmp_path)
        with pytest.raises(ModelError, match="no model can be read"):
            await stage.swap.begin(stage.make("corrupt"), A)
        stage.journal.close()
        nothing = Stage(tmp_path / "other")
        with pytest.raises(ModelError, match="no version was given"):
            await nothing.swap.begin()
        nothing.journal.close()

    (tmp_path / "other").mkdir()
    asyncio.run(play())


def test_what_alone_is_larger_than_the_daemon_may_take_does_not_serve_and_what_fits_does(tmp_path):
    async def play():
        stage = Stage(tmp_path)
        stage.house.limit = SIZE - 1
        with pytest.raises(ModelError, match=r"home:1\.0\.0 does not fit: it needs") as refused_:
            await stage.swap.begin(stage.make(), A)
        assert "--memory-limit" in refused_.value.remedy
        stage.house.limit = SIZE
        await stage.swap.begin(stage.make(), A)
        assert stage.labels == {"current": A}
        stage.journal.close()

    asyncio.run(play())


def test_what_a_pool_needs_is_counted_for_the_first_version_too(tmp_path):
    async def play():
        stage = Stage(tmp_path, 10 * SIZE)
        there = stage.make(predicted={"kv_cache": float(SIZE)})
        stage.swap._hand.bounds = dataclasses.replace(BOUNDS, pool=10 * PLAIN.context)
        with pytest.raises(ModelError, match="does not fit") as refused_:
            await stage.swap.begin(there, A)
        assert refused_.value.remedy == "Say a smaller --pool: its context is 64 tokens."
        stage.swap._hand.bounds = dataclasses.replace(BOUNDS, pool=9 * PLAIN.context)
        await stage.swap.begin(there, A)
        stage.journal.close()

    asyncio.run(play())


def test_what_has_served_comes_back_whatever_else_the_machine_does_now(tmp_path):
    async def play():
        stage = Stage(tmp_path)
        await stage.swap.begin(stage.make(), A)
        await stage.swap.end()
        again = stage.again()
        again.swap._hand._memory = lambda: Memory(available=SIZE - 1, total=10 * SIZE)
        await again.swap.begin(again.make(), A)
        assert again.labels == {"current": A}
        await again.swap.end()
        fresh = Stage(tmp_path / "fresh")
        fresh.swap._hand._memory = again.swap._hand._memory
        with pytest.raises(ModelError, match="does not fit"):
            await fresh.swap.begin(fresh.make(), A)
        for each in (again, fresh):
            each.journal.close()

    (tmp_path / "fresh").mkdir()
    asyncio.run(play())


@run
async def test_another_folder_is_not_loaded_under_a_name_that_is_there(stage):
    await stage.swap.load(str(stage.make("next")), B)
    said = await refused(stage.swap.load(str(stage.make("other")), B), 409, "other_folder")
    assert str(stage.folder / "next") in said
    assert "--digest" in said
    (stage.folder / "link").symlink_to(stage.folder / "next")
    assert not (await stage.swap.load(str(stage.folder / "link"), B))["changed"]
    await stage.swap.drop(B)
    assert (await stage.swap.load(str(stage.make("other")), B))["changed"]


@run
async def test_a_load_tells_whom_it_ended(stage):
    await stage.bring(B)
    await stage.settled()
    assert (await stage.swap.load(str(stage.make("next")), C))["ended"] == []
    stage.house.limit = 2 * SIZE
    told = await stage.swap.load(str(stage.make("other")), DIGESTS["d"])
    assert told["ended"] == [C, A]
    assert set(stage.house.workers) == {B, DIGESTS["d"]}


@run
async def test_a_gate_waits_for_a_worker_that_is_started_again(stage):
    await stage.swap.load(str(stage.make()), B)
    worker = stage.house.workers[B]
    worker.state = "restarting"
    gating = asyncio.create_task(stage.swap.gate(B))
    await asyncio.sleep(0.02)
    assert not gating.done()
    worker.state = "ready"
    assert (await gating)["outcome"] == "pass"


@run
async def test_a_gate_does_not_wait_for_ever_for_a_worker_that_does_not_come_back(stage):
    await stage.swap.load(str(stage.make()), B)
    stage.house.workers[B].state = "restarting"
    await refused(stage.swap.gate(B), 409)


def test_where_nothing_served_before_what_is_wrong_with_the_first_is_said(tmp_path):
    async def play():
        stage = Stage(tmp_path, limit=SIZE - 1, steered=True)
        with pytest.raises(RefusedError, match="does not fit: it needs"):
            await stage.swap.load(str(stage.make()), A)
        stage.house.limit = None
        with pytest.raises(RefusedError, match="no model can be read"):
            await stage.swap.load(str(stage.make("corrupt")), B)
        await stage.swap.end()
        stage.journal.close()

    asyncio.run(play())


def test_without_a_digest_a_version_is_called_by_that_of_its_artifact_json(tmp_path):
    async def play():
        stage = Stage(tmp_path)
        await stage.swap.begin(stage.make())
        assert stage.labels["current"].startswith("sha256:")
        assert not (await stage.swap.load(str(stage.make())))["changed"]
        stage.journal.close()

    asyncio.run(play())


def test_the_fold_of_what_is_on_disk_never_lags_behind_what_was_done():
    """Law: `step` is what the journal counts by, so that memory and disk cannot differ."""
    kept = Journal()
    record = {"kind": "loading", "digest": A, "at": 1.0}
    assert kept.write(record) == step(Journal().state, record)
