"""How long something may take, as people write it: 90s, 5m, 1h30m; a number alone is seconds.

Law: a duration is seconds, not negative, and less than eleven years, so that every clock can wait for it.
"""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

LONGEST = 10 * 366 * 86_400
"""Seconds that may be waited for."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(said: object) -> object:
    """Read `90s`, `5m`, `1h`, `1h30m`; leave a number as it is."""
    if not isinstance(said, str):
        return said
    parts = _DURATION.findall(said)
    if not parts or "".join(number + unit for number, unit in parts) != said:
        raise ValueError("expected a duration such as 90s, 5m or 1h30m; a number alone is seconds")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


_Read = BeforeValidator(seconds, json_schema_input_type=str | float)
_EXAMPLES: dict[str, object] = {"examples": ["90s", "5m", "1h"]}
Seconds = Annotated[float, _Read, Field(ge=0, le=LONGEST, json_schema_extra=_EXAMPLES)]
Deadline = Annotated[float, _Read, Field(gt=0, le=LONGEST, json_schema_extra=_EXAMPLES)]
"""Seconds, and not none."""
