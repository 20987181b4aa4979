"""What a command says, put over what a recipe has written; and what to say when that is no recipe."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from slmops.errors import UsageError

M = TypeVar("M", bound=BaseModel)


def put_over(written: Any, stated: Any) -> Any:
    """Return what is stated, else what is written; of a part that both speak of, each key so.

    What a command does not say is None, and a part of which it says nothing is left out.
    """
    if not isinstance(stated, Mapping):
        return written if stated is None else stated
    before = written if isinstance(written, Mapping) else {}
    found = {key: put_over(before.get(key), stated.get(key)) for key in [*before, *stated]}
    found = {key: value for key, value in found.items() if value is not None}
    return found or None


def checked(
    model: type[M], whole: Mapping[str, Any], options: Mapping[str, str], schema: str | None = None
) -> M:
    """Return `whole` as a recipe or a part of one; raise UsageError that names the option to mend.

    `options` are those whose name is not that of their key; `schema` is what `slmops schema` calls
    it, of a command that takes such a file.
    """
    try:
        return model.model_validate(whole)
    except ValidationError as error:
        first = error.errors()[0]
        missing = first["type"] == "missing"
        key = _place(first)
        option = options.get(str(first["loc"][0]) if first["loc"] else "") or options.get(key)
        option = option or f"--{key.replace('_', '-')}"
        beside = f", or say it in a --recipe (`slmops schema {schema}`)" if schema else ""
        raise UsageError(
            f"{key} is not said" if missing else f"{key}: {_plain(first)}",
            remedy=f"{'Give' if missing else 'Correct'} {option}{beside}.",
        ) from error


def _place(error: Any) -> str:
    """Return what is wrong as a command calls it: the last word of where it stands."""
    blamed = (error.get("ctx") or {}).get("at", ())
    return next(
        (str(part) for part in reversed([*error["loc"], *blamed]) if str(part).isidentifier()), "recipe"
    )


def _plain(error: Any) -> str:
    """Return what a schema complains of, in plain words and with what was given."""
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    said = said if said.startswith("expected") else f"expected {said}"
    return said if "got " in said else f"{said}, got {error['input']!r}"
