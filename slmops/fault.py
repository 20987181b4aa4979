"""How a schema's own rule blames a key, so that the document can say its line."""

from pydantic_core import PydanticCustomError


def fault(message: str, *at: str | int) -> PydanticCustomError:
    """Return an error for a model's validator to raise; `at` leads from that model to the key to blame."""
    return PydanticCustomError("fault", "{why}", {"why": message, "at": at})
