"""Print the keys of a fleet file's `rollout:`, as a Markdown table drawn from the schema."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from slmops.fleet.strategy import Strategy

UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def table() -> str:
    """Return a row for every key: what it is called, what holds where it is not said, what it means."""
    rows = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _rows(Strategy, "")]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _rows(model: type[BaseModel], before: str) -> Iterator[tuple[str, str, str]]:
    for name, about in model.model_fields.items():
        key = before + (about.alias or name)
        yield key, _default(about), (about.description or "").replace("|", "\\|")
        for below in _models(about.annotation):
            yield from _rows(below, f"{key}[]." if isinstance(about.default, list) else f"{key}.")


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models(part)


def _default(about: FieldInfo) -> str:
    if about.is_required():
        return "must be said"
    value = about.default
    if value is None or value == []:
        return ""
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{_duration(value) if _is_duration(about) else _plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(each) for each in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_duration(about: FieldInfo) -> bool:
    extra = about.json_schema_extra
    return isinstance(extra, dict) and "90s" in str(extra.get("examples"))


def _duration(seconds: float) -> str:
    for unit, length in UNITS:
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


if __name__ == "__main__":
    print(table())
