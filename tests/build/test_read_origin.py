"""Where a source model is from: revision, license, ledger, and the digest of a recipe."""

import shutil

import pytest

from slmops import digest as digests
from slmops.build.checkpoint import open_checkpoint
from slmops.build.read_origin import read_origin, recipe_digest
from slmops.build.recipe import Recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def source(labelling, tmp_path):
    """Open a source model as it lies in a hub's cache, with the files that a test puts beside it."""

    def make(**files):
        folder = tmp_path / "snapshots" / COMMIT
        shutil.copytree(labelling.source, folder)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return open_checkpoint(folder)

    return make


def test_revision_license_and_ledger_are_read(source):
    found = read_origin(source(README__md="---\nlicense: mit\ntags: [a]\n---\n# x\n", ledger__json="{}"))

    assert found == {"revision": COMMIT, "license": "mit", "ledger": digests.of_bytes(b"{}")}


@pytest.mark.parametrize(
    "card", ["", "# no front\n", "---\nlicense: [a]\n---\n", "---\n: : {\n---\n", "---\nx: 1\n"]
)
def test_what_a_card_does_not_name_is_not_said(source, card):
    assert read_origin(source(README__md=card)) == {"revision": COMMIT}


def test_a_model_that_lies_anywhere_has_no_revision(labelling):
    assert read_origin(open_checkpoint(labelling.source)) == {}


def test_a_recipe_is_the_same_wherever_its_files_lie():
    one, other, third = (
        Recipe.model_validate({"model": model, "name": "demo", "version": "1", "profiles": ["pi"]})
        for model in ("/here/model", "/there/model", "/here/another")
    )

    assert recipe_digest(one) == recipe_digest(other) != recipe_digest(third)
