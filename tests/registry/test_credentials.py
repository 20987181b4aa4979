"""Who the operator is at a registry, as docker's configuration says it."""

import base64
import json
import os

import pytest

from slmops.errors import UsageError
from slmops.registry.credentials import Credentials, of_host


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Write docker's configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def write(said):
        text = said if isinstance(said, str) else json.dumps(said)
        (tmp_path / "config.json").write_text(text)

    return write


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Install a credential helper that answers with `said`."""

    def install(said, code=0):
        program = tmp_path / "docker-credential-here"
        program.write_text(f"#!/bin/sh\nread host\ncat <<'END'\n{json.dumps(said)}\nEND\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def auth(text):
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_without_a_configuration_nobody_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))

    assert of_host("host") is None


@pytest.mark.parametrize("key", ["host:5000", "https://host:5000", "https://host:5000/v1/"])
def test_a_name_and_password_are_found_however_the_host_is_written(docker, key):
    docker({"auths": {key: auth("ada:a:b"), "other": auth("eve:x")}})

    assert of_host("host:5000") == Credentials("ada", "a:b")
    assert of_host("host") is None


def test_an_identity_token_goes_before_a_password(docker):
    docker({"auths": {"host": {**auth("ada:x"), "identitytoken": "t"}}})

    assert of_host("host") == Credentials("", "", "t")


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_credential_helper_is_asked(docker, helper, key):
    docker({key: "here" if key == "credsStore" else {"host": "here"}})
    helper({"Username": "ada", "Secret": "s"})
    assert of_host("host") == Credentials("ada", "s")

    helper({"Username": "<token>", "Secret": "s"})
    assert of_host("host") == Credentials("", "", "s")

    helper({}, code=1)
    assert of_host("host") is None


def test_a_helper_that_is_not_installed_is_named(docker):
    docker({"credsStore": "nowhere"})

    with pytest.raises(UsageError, match="docker-credential-nowhere"):
        of_host("host")


@pytest.mark.parametrize("said", ["", "{", "[]", '{"auths": {"host": {"auth": "%%%"}}}'])
def test_a_configuration_that_cannot_be_read_is_refused(docker, said):
    docker(said)

    with pytest.raises(UsageError):
        of_host("host")


@pytest.mark.parametrize("said", [{}, {"auths": []}, {"auths": {"host": {}}}, {"auths": {"host": 3}}])
def test_a_configuration_that_knows_nobody_is_fine(docker, said):
    docker(said)

    assert of_host("host") is None
