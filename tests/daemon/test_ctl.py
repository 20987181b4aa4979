"""What `ctl` says and how it ends, against a real router where one is needed."""

import json
import subprocess
import sys

import pytest

from slmops.daemon import ctl

GIVEN, NEXT = (f"sha256:{letter * 64}" for letter in "ab")


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """A version that is right, and one that is not what its golden prompts say."""
    folder = tmp_path_factory.mktemp("models")

    def make(name, version, expected):
        said = {"golden": "golden.jsonl", "version": version}
        there = tiny.make_artifact(folder / name, "gguf", tiny.parrot_weights(), **said)
        golden = {"messages": [{"role": "user", "content": "hi"}], "expect": expected}
        (there / "golden.jsonl").write_text(json.dumps(golden) + "\n", encoding="utf-8")
        return there

    return make("given", "1.0.0", tiny.SENTENCE), make("other", "1.1.0", "something else")


@pytest.fixture(scope="module")
def router(tiny, models, tmp_path_factory):
    """The admin socket of a router that serves, and a client of it."""
    folder = tmp_path_factory.mktemp("router")
    said = ("--digest", GIVEN, "--admin", folder / "admin.sock")
    with tiny.daemon(models[0], folder, *said) as running, running.client() as client:
        yield folder / "admin.sock", client


@pytest.fixture(scope="module")
def socket(router):
    """Its admin socket."""
    return router[0]


@pytest.fixture(scope="module")
def served(router):
    """An HTTP client of it."""
    return router[1]


@pytest.fixture
def do(socket, capsys):
    """Run ctl and return its exit code, output and complaints."""

    def run(*words):
        code = ctl.main([*map(str, words), "--admin", str(socket)])
        return code, *capsys.readouterr()

    return run


def test_a_status_names_each_version_and_tells_how_it_does(do):
    code, said, _ = do("status")
    assert code == 0
    heads, first = said.splitlines()[:2]
    assert heads.split()[:3] == ["LABEL", "RELEASE", "DIGEST"]
    assert first.split()[:5] == ["current", "parrot:1.0.0", "a" * 12, "ready", "starter"]
    assert "0 waiting" in said


def test_a_status_for_programs_is_json(do):
    code, said, _ = do("status", "-o", "json")
    told = json.loads(said)
    assert code == 0
    assert told["labels"] == {"current": GIVEN}
    assert told["versions"][0]["rss"] > 0
    assert told["traffic"] == {"split": {"current": 1.0}, "shadow": None}


def test_where_nothing_is_compared_a_report_says_how_to_begin(do, socket):
    assert do("report")[1].endswith(f"Begin: slmopsd ctl shadow --admin {socket} candidate 10%\n")


def test_before_any_candidate_was_there_is_none_to_gate_or_promote(do):
    for verb in ("gate", "promote"):
        code, _, complaint = do(verb)
        assert (code, "no version 'candidate'" in complaint) == (1, True)


def test_a_daemon_that_is_drained_is_not_ready_says_so_and_can_be_filled_again(do, served, socket):
    code, said, _ = do("drain")
    assert (code, f"slmopsd ctl drain --admin {socket} --undo" in said) == (0, True)
    ready = served.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert "It is drained, and refuses requests." in do("status")[1]
    assert served.post("/v1/completions", json={"prompt": "x"}).status_code == 503
    assert do("drain", "--undo") == (0, "Requests are taken again.\n", "")
    assert served.get("/readyz").status_code == 200
    assert "drained" not in do("status")[1]
    assert served.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200


def test_a_version_goes_its_way_step_by_step_and_each_says_what_is_next(do, models, socket):
    assert do("load", models[0], "--digest", NEXT)[1].endswith(f"Next: slmopsd ctl gate --admin {socket}\n")
    again = f"bbbbbbbbbbbb is loaded already; {models[0]} was not read again.\n"
    assert do("load", models[0], "--digest", NEXT)[1] == again
    code, _, complaint = do("load", models[1], "--digest", NEXT)
    assert (code, f"is loaded from {models[0]}" in complaint, "--digest" in complaint) == (1, True, True)
    code, _, complaint = do("promote")
    assert code == 1
    assert "it has passed no gate: load and gate it first" in complaint
    assert f"next: slmopsd ctl gate --admin {socket}\n" in complaint
    assert "promote" not in do("gate", "current")[1]
    assert do("gate")[1].startswith("bbbbbbbbbbbb: pass: 1 of 1 golden prompts passed\n")
    assert "current 90%, candidate 10%" in do("split", "current=9", "candidate=1")[1]
    assert "20% also asked of candidate" in do("shadow", "candidate", "20%")[1]
    report = do("report")[1]
    assert "fewer than 30 requests" in report
    assert "parrot:1.0.0 aaaaaaaaaaaa" in report
    assert "no pair yet: a shadow is asked while nobody else is" in report
    assert "current 100%" in do("split", "off")[1]
    assert f"rollback --admin {socket} (aaaaaaaaaaaa)" in do("promote")[1]
    assert do("promote") == (0, "bbbbbbbbbbbb is current already.\n", "")
    assert do("gate")[0] == 0
    assert "Nothing is compared" in do("report")[1]
    assert do("promote", "b" * 12)[1] == "bbbbbbbbbbbb is current already.\n"
    assert do("rollback", "--why", "for once") == (
        0,
        "aaaaaaaaaaaa is current again; bbbbbbbbbbbb was withdrawn.\n",
        "",
    )
    assert do("rollback")[:1] == (0,)
    assert "for once" in do("status")[1]
    code, _, complaint = do("promote")
    assert (code, "no version 'candidate'" in complaint) == (1, True)


def test_what_was_rolled_back_without_a_reason_says_so_and_when():
    told = ctl._tell_failure({"release": "p:1", "digest": GIVEN}, {"why": "", "at": 0.0})
    assert told == "p:1 (aaaaaaaaaaaa) 1970-01-01 00:00:00 UTC: rolled back by hand\n"


def test_a_version_that_fails_its_gate_has_an_exit_code_of_its_own(do, models):
    assert do("load", models[0], "--digest", NEXT.replace("b", "c"))[0] == 0
    code, said, _ = do("load", models[1])
    assert (code, "cccccccccccc was ended for it.\n" in said) == (0, True)
    code, said, _ = do("gate")
    assert code == 5
    assert "expected 'something else', got 'Grün, 猫!'" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("drop", "current"), "is current: promote another"),
        (("drop", "candidate"), "no version 'candidate' is known"),
        (("load", "/nowhere"), "not an artifact folder"),
        (("load", "/nowhere", "--digest", "current"), "not a digest"),
        (("gate", "0" * 64), "no version"),
        (("shadow", "candidate"), "no label here"),
        (("split", "current=much"), "expected a number"),
        (("split", "current=1", "candidate=nan"), "candidate=nan: expected a number"),
        (("split", "other=1"), "expected one of current, previous, candidate"),
    ],
)
def test_what_is_refused_says_why(do, words, complaint):
    code, said, why = do(*words)
    assert code in (1, 2)
    assert not said
    assert complaint in why


def test_without_a_daemon_the_exit_code_is_6_and_where_to_look_is_said(tmp_path, capsys):
    assert ctl.main(["status", "--admin", str(tmp_path / "none.sock")]) == 6
    assert "Say --admin SOCKET" in capsys.readouterr().err


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit):
        ctl.main(["--help"])
    said = capsys.readouterr().out
    for verb in (
        "status",
        "load",
        "gate",
        "promote",
        "rollback",
        "drop",
        "drain",
        "split",
        "shadow",
        "report",
    ):
        assert f"    {verb} " in said


def test_where_an_agent_steers_the_versions_nobody_else_moves_them(tiny, models, tmp_path):
    place = tmp_path / "admin.sock"
    with tiny.daemon(models[0], tmp_path, "--digest", GIVEN, "--admin", place, "--steered") as running:
        with running.client():
            words = (["rollback"], ["load", models[1]], ["promote"], ["gate", "current"], ["drop", "current"])
            others = [_by_another(place, *each) for each in words]
            assert {(each.returncode, each.stderr) for each in others} == {(1, STEERED)}
            status = _by_another(place, "status")

        # This process started the router: it is the one that steers.
        assert ctl.call(place, "POST", "load", {"folder": str(models[1]), "digest": NEXT})["changed"]
        assert ctl.call(place, "GET", "status")["labels"] == {"current": GIVEN, "candidate": NEXT}
    assert status.returncode == 0


STEERED = (
    "this device's agent decides which versions it has, and would undo this: ask it by `slmops rollback` or "
    "`slmops deploy`, as its operator\n"
    "next: slmops rollback FLEET.yaml, or slmops deploy FLEET.yaml, on the operator's machine\n"
)


def _by_another(place, *words):
    said = [sys.executable, "-m", "slmops.daemon", "ctl", *map(str, words), "--admin", str(place)]
    return subprocess.run(said, capture_output=True, text=True, check=False)
