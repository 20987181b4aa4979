"""The turns of a conversation, the tools it may speak of and the form of its answer, as requests say them.

Pure; OpenAI's shapes. It does not know templates (`chat`), how models write calls (`tools`) or grammars.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
"""Of a function, as clients may call it."""


class Struct(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True, kw_only=True):
    """A part of a request: what it does not know it refuses."""


class TextPart(Struct, frozen=True, kw_only=True):
    """One part of a message that comes in parts."""

    type: Literal["text"]
    text: str


Content = str | list[TextPart]


class System(Struct, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """What the model is told to be."""

    content: Content
    name: str | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """Return the message as chat templates know it, with its parts joined."""
        return _named({"role": "system", "content": _text(self.content)}, self.name)


class Developer(System, frozen=True, kw_only=True, tag_field="role", tag="developer"):
    """The newer word for it; templates know the older."""


class User(Struct, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """What a person says."""

    content: Content
    name: str | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """See `System`."""
        return _named({"role": "user", "content": _text(self.content)}, self.name)


class CalledFunction(Struct, frozen=True, kw_only=True):
    """Which function the model called, and with what."""

    name: str
    arguments: str
    """JSON, as the model wrote it."""
    parsed_arguments: Any = None
    """The same once more, from OpenAI's client; not read."""


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call that the model made."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"

    @property
    def plain(self) -> dict[str, Any]:
        """Return the call as chat templates know it: its arguments are values, not text."""
        called = {"name": self.function.name, "arguments": _values(self.function.arguments)}
        return {"id": self.id, "type": "function", "function": called}


class Assistant(Struct, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """What the model said."""

    content: Content | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    parsed: Any = None
    """OpenAI's client says these four where an answer is given back as it came: the first three are empty,
    the last is what it made of the content, and not read."""
    name: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, which is told as a fault of the body, for a turn in which nothing was said."""
        if self.content is None and not self.tool_calls:
            raise ValueError("an assistant's message needs content or tool_calls")

    @property
    def plain(self) -> dict[str, Any]:
        """See `System`."""
        said: dict[str, Any] = {"role": "assistant", "content": _text(self.content or "")}
        if self.tool_calls:
            said["tool_calls"] = [call.plain for call in self.tool_calls]
        return _named(said, self.name)


class ToolAnswer(Struct, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """What a function answered."""

    content: Content
    tool_call_id: str
    name: str | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """See `System`."""
        said = {"role": "tool", "content": _text(self.content), "tool_call_id": self.tool_call_id}
        return _named(said, self.name)


Message = System | Developer | User | Assistant | ToolAnswer


class Function(Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of its arguments."""
    strict: bool | None = None


class Tool(Struct, frozen=True, kw_only=True):
    """A tool that is offered; all of them are functions."""

    type: Literal["function"]
    function: Function

    @property
    def plain(self) -> dict[str, Any]:
        """Return the tool as chat templates know it."""
        said = {"name": self.function.name, "description": self.function.description or ""}
        return {"type": "function", "function": {**said, "parameters": self.function.parameters or EMPTY}}


EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
"""The parameters of a function that has none."""


class Chosen(Struct, frozen=True, kw_only=True):
    """The name of a function."""

    name: Name


class NamedTool(Struct, frozen=True, kw_only=True):
    """The one function that must be called."""

    type: Literal["function"]
    function: Chosen


class TextFormat(Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """Any answer."""


class JsonObjectFormat(Struct, frozen=True, kw_only=True, tag_field="type", tag="json_object"):
    """An answer that is some JSON object."""


class NamedSchema(Struct, frozen=True, kw_only=True):
    """A JSON schema and what it is called."""

    name: Name
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    """Whatever it says, the answer keeps to the schema."""


class JsonSchemaFormat(Struct, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """An answer that keeps to a JSON schema."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _named(said: dict[str, Any], name: str | None) -> dict[str, Any]:
    return said if name is None else {**said, "name": name}


def _values(arguments: str) -> Any:
    """Return what `arguments` says; itself where it is no JSON."""
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
