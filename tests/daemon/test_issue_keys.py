"""Keys from a shell."""

import pytest

from slmops import keep_keys, keys
from slmops.daemon.issue_keys import main
from slmops.errors import UsageError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def test_a_key_is_printed_alone_and_once(file, capsys):
    assert main(["create", "--file", str(file), "--name", "app", "--role", "metrics", "--days", "2"]) == 0

    said = capsys.readouterr()
    (kept,) = keep_keys.read(file)
    assert keys.find([kept], said.out.rstrip("\n"), kept.created) == kept
    assert kept.expires == kept.created + 2 * 86400
    assert "app" in said.err
    assert said.out.strip() not in said.err


def test_keys_are_listed_without_what_opens(file, capsys):
    main(["create", "--file", str(file), "--name", "app"])
    main(["create", "--file", str(file), "--name", "eyes", "--role", "metrics"])
    main(["revoke", "--file", str(file), "app"])
    capsys.readouterr()

    assert main(["list", "--file", str(file)]) == 0

    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in shown] == [["app", "infer"], ["eyes", "metrics"]]
    assert "revoked" in shown[0]
    assert "in force" in shown[1]
    assert not any(key.hash in "".join(shown) for key in keep_keys.read(file))


def test_who_revokes_the_last_key_is_told_that_nobody_is_let_in(file, capsys):
    for name in ("app", "eyes"):
        main(["create", "--file", str(file), "--name", name])
    main(["revoke", "--file", str(file), "app"])
    assert "the last" not in capsys.readouterr().err
    main(["revoke", "--file", str(file), "eyes"])
    assert "It was the last: nobody is let in" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_an_error_in_words(file):
    with pytest.raises(UsageError, match="there is no"):
        main(["list", "--file", str(file)])
    with pytest.raises(UsageError, match="no key"):
        main(["revoke", "--file", str(file), "app"])
