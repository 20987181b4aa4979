"""What a schema complains of, in a person's words; and how its own rule blames a key.

It knows no schema and no document.
"""

import re

from pydantic_core import ErrorDetails, PydanticCustomError

_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "none_required": "nothing",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "text of {min_length} letters or more",
    "string_too_long": "text of {max_length} letters at most",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}


def wanted(error: ErrorDetails) -> str:
    """Name what pydantic wanted, in a person's words; its own words where it has better ones."""
    kind = error["type"]
    for key in (kind, re.sub(r"_(type|parsing|from_float|attributes_type)$", "", kind)):
        if key in _EXPECTED:
            return _EXPECTED[key].format(**error.get("ctx", {}))
    return error["msg"][:1].lower() + error["msg"][1:]


def plainly(error: ErrorDetails) -> str:
    """Say what pydantic complains of."""
    match error["type"]:
        case "missing":
            return "missing key"
        case "extra_forbidden":
            return "unknown key"
        case "fault" | "value_error" | "assertion_error":
            return error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        case "json_invalid":
            return "it is no JSON"
        case _:
            return f"expected {wanted(error)}"


def fault(message: str, *at: str | int) -> PydanticCustomError:
    """Return an error for a model's validator to raise, so that the document can say the line of its key.

    `at` leads from that model to the key to blame.
    """
    return PydanticCustomError("fault", "{why}", {"why": message, "at": at})
