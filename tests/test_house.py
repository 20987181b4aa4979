"""The house keeps its own rules."""

import ast
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from slmops.artifact import carried
from slmops.fleet import agent_bundle

TOP = Path(__file__).parents[1]
ROOT = TOP / "slmops"
FILES = sorted(ROOT.rglob("*.py"))
TESTS = sorted((TOP / "tests").rglob("*.py"))
UNWELCOME = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "core"}
CARRIED = sorted(agent_bundle.modules())


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def within(path):
    return str(path.relative_to(TOP))


@pytest.mark.parametrize("path", FILES, ids=within)
def test_a_file_says_what_it_is_and_stays_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in UNWELCOME
    assert (ast.get_docstring(tree(path)) or "").partition("\n")[0].endswith(".")


def test_rooms_are_shallow_and_none_is_called_what_says_nothing():
    parts = [path.relative_to(ROOT).parts for path in FILES]

    assert max(map(len, parts)) == 2
    assert not {part for path in parts for part in path[:-1]} & UNWELCOME


def test_every_room_is_on_the_map():
    rooms = {path.parent.name for path in FILES if path.parent != ROOT}

    assert {room for room in rooms if f"    {room} " not in (ROOT / "__init__.py").read_text()} == set()


def test_no_folder_of_tests_is_passed_over(pytestconfig):
    folders = {part for path in TESTS for part in path.relative_to(TOP).parts[:-1]}

    assert [
        folder
        for folder in folders
        for passed in pytestconfig.getini("norecursedirs")
        if fnmatch(folder, passed)
    ] == []


@pytest.mark.parametrize("path", TESTS, ids=within)
def test_a_test_replaces_nothing_of_ours(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("unittest") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in {"unittest", "pytest_mock"}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "monkeypatch.setattr":
            assert ast.unparse(node.args[0]) in {"sys", "os"}


def test_every_error_has_a_code_of_its_own_and_says_what_it_means():
    classes = [node for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    errors = {"SlmopsError"}
    while (
        more := {
            node.name
            for node in classes
            if any(isinstance(base, ast.Name) and base.id in errors for base in node.bases)
        }
        - errors
    ):
        errors |= more
    found = [node for node in classes if node.name in errors]
    codes = [code(node) for node in found]

    assert len(found) >= 15
    assert [
        node.name for node in found if not (ast.get_docstring(node) or "").partition("\n")[0].endswith(".")
    ] == []
    assert [node.name for node in found if not (code(node) or "").startswith("SLM-")] == []
    assert sorted(set(codes)) == sorted(codes)


def code(node):
    """Return the `code` that a class sets for itself."""
    for line in node.body:
        target = line.target if isinstance(line, ast.AnnAssign) else None
        targets = line.targets if isinstance(line, ast.Assign) else [target]
        if any(isinstance(each, ast.Name) and each.id == "code" for each in targets):
            return ast.literal_eval(line.value)
    return None


@pytest.mark.parametrize("name", CARRIED)
def test_what_goes_to_a_device_needs_nothing_but_python_3_9(name):
    path = carried.source(name)
    parsed = ast.parse(path.read_bytes(), str(path), feature_version=(3, 9))

    since_3_9 = {"tomllib"}
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            named = [node.module or ""]
        else:
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in named:
            room = module.split(".")[0]
            assert room == "slmops" or room in sys.stdlib_module_names - since_3_9, module
