"""Print the rooms of slmops, in the order a model travels, from their own docstrings."""

import ast
from pathlib import Path

JOURNEY = (
    "profile", "build", "train", "artifact", "delta", "registry", "fleet", "rollout", "device", "daemon",
    "telemetry", "cli",
)  # fmt: skip
WIDTH = 28
"""Columns before what a file says of itself."""
PACKAGE = Path(__file__).parent.parent / "slmops"


def first_line(path: Path) -> str:
    """Return what a file says it is."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def rooms() -> str:
    """Return the map as text, a line for each room."""
    return "\n".join(f"{room + '/':<12}{first_line(PACKAGE / room / '__init__.py')}" for room in JOURNEY)


def files() -> str:
    """Return the map as text, a line for each file."""
    lines = [_line(path, 0) for path in sorted(PACKAGE.glob("[!_]*.py"))]
    for room in JOURNEY:
        lines.append(f"{room + '/':<{WIDTH}}{first_line(PACKAGE / room / '__init__.py')}")
        lines += [_line(path, 4) for path in sorted((PACKAGE / room).glob("[!_]*.py"))]
    return "\n".join(lines)


def _line(path: Path, indent: int) -> str:
    return f"{' ' * indent}{path.name:<{WIDTH - indent}}{first_line(path)}"


if __name__ == "__main__":
    print(files())
