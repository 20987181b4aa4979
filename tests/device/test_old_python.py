"""Everything the agent is made of is written for Python 3.9, whatever runs these tests."""

import ast
import io
import zipfile

import pytest

from slmops.fleet.agent_bundle import bundle

SINCE_3_10 = {
    *("pairwise", "bit_count", "aiter", "anext", "file_digest", "hardlink_to", "NoneType", "EllipsisType"),
    *("StrEnum", "TaskGroup", "ExceptionGroup", "add_note", "chdir", "batched", "tomllib", "UTC", "Self"),
    *("stdlib_module_names", "orig_argv", "eventfd", "splice", "F_SETPIPE_SZ", "F_GETPIPE_SZ", "walk_up"),
}
"""Names that a newer standard library added, of those that an agent could be tempted to use."""
NEW_WORDS = {"zip": {"strict"}, "dataclass": {"slots", "kw_only"}, "bisect": {"key"}, "insort": {"key"}}
"""Keyword arguments that functions got later."""

with zipfile.ZipFile(io.BytesIO(bundle().data)) as archive:
    SOURCES = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_module_of_the_agent_is_one_for_python_3_9(name):
    tree = ast.parse(SOURCES[name], feature_version=(3, 9))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in SINCE_3_10:
            found.add(node.attr)
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names} & SINCE_3_10
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found |= {word.arg for word in node.keywords} & NEW_WORDS.get(called, set())

    assert found == set()
