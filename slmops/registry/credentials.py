"""Who the operator is at an OCI registry: what `docker login` or `oras login` has kept.

    $DOCKER_CONFIG/config.json, else ~/.docker/config.json

A name and password, an identity token, or a credential helper's answer. It asks no registry anything.
Source: docs.docker.com, docker login (credential stores, credential helpers).
"""

import base64
import binascii
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.errors import UsageError

_TOKEN_USER = "<token>"  # noqa: S105 - the name by which helpers say that the secret is a token


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, or a token that stands for both."""

    user: str = ""
    password: str = ""
    identity_token: str = ""


def of_host(host: str) -> Credentials | None:
    """Return what is kept for a registry's host; None when nothing is."""
    path = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "config.json"
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", remedy=f"Run `docker login {host}`.") from error
    if not isinstance(said, dict):
        raise UsageError(f"{path} is no configuration of docker", remedy=f"Run `docker login {host}`.")
    helper = _object(said, "credHelpers").get(host) or said.get("credsStore")
    found = _entry(_object(said, "auths"), host)
    if helper:
        return _from_helper(str(helper), host) or (_from_entry(found, path) if found else None)
    return _from_entry(found, path) if found else None


def _object(said: dict[str, Any], key: str) -> dict[str, Any]:
    found = said.get(key)
    return found if isinstance(found, dict) else {}


def _entry(kept: dict[str, Any], host: str) -> dict[str, Any] | None:
    for key, found in kept.items():
        if key.removeprefix("https://").removeprefix("http://").partition("/")[0] == host:
            return found if isinstance(found, dict) else None
    return None


def _from_entry(found: dict[str, Any], path: Path) -> Credentials | None:
    if token := found.get("identitytoken"):
        return Credentials(identity_token=str(token))
    if not found.get("auth"):
        return None
    try:
        user, colon, password = base64.b64decode(found["auth"], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError) as error:
        raise UsageError(f"{path}: an `auth` in it is not base64: {error}") from error
    return Credentials(user, password) if colon else None


def _from_helper(helper: str, host: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=host, capture_output=True, text=True, timeout=60, check=False
        )
        said = json.loads(done.stdout) if done.returncode == 0 else {}
    except FileNotFoundError as error:
        raise UsageError(
            f"docker's configuration names a credential helper that is not installed: {program}",
            remedy=f"Install it, or run `docker login {host}` without it.",
        ) from error
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{program} did not answer as credential helpers do: {error}") from error
    if not said.get("Secret"):
        return None
    if said.get("Username") == _TOKEN_USER:
        return Credentials(identity_token=said["Secret"])
    return Credentials(said.get("Username", ""), said["Secret"])
