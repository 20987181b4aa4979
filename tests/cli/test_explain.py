import ast
from collections import Counter
from pathlib import Path

import pytest

import slmops as package
from slmops import errors
from slmops.errors import SlmopsError

FILES = sorted(Path(package.__file__).parent.rglob("*.py"))


def codes():
    """Return every error code that some class of slmops carries, by reading the sources."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found += [_code(line) for line in node.body if _code(line)]
    return found


def _code(line):
    target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
    value = getattr(line, "value", None)
    named = isinstance(target, ast.Name) and target.id == "code" and isinstance(value, ast.Constant)
    return value.value if named and str(value.value).startswith("SLM-") else None


CODES = codes()


def test_there_are_codes():
    assert len(CODES) > 10


def test_every_code_is_unique():
    assert [code for code, count in Counter(CODES).items() if count > 1] == []


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_is_explained(slmops, code):
    ended = slmops("explain", code.lower())

    assert ended.code == 0
    assert ended.out.startswith(f"{code} (exit code ")


def test_without_a_code_all_are_listed(slmops):
    listed = [line.split()[0] for line in slmops("explain").out.splitlines()[1:] if line.startswith("SLM-")]

    assert len(listed) == len(set(listed))
    assert set(CODES) - {"SLM-REQUEST"} <= set(listed) <= set(CODES)


def test_a_code_that_is_none_is_a_usage_error_with_a_way_on(slmops):
    ended = slmops("explain", "SLM-NOTHING")

    assert ended.code == 2
    assert "there is no error code 'SLM-NOTHING'" in ended.err
    assert "slmops explain" in ended.err


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SlmopsError)],
)
def test_no_error_exits_as_success_or_as_another_commands_interrupt(kind):
    assert kind.exit_code in {1, 2, 4, 5, 6, 7, 8}
    assert kind.__doc__
