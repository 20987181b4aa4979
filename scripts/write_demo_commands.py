"""Write house commands and their actions, as the demo model knows them, for training or as a task.

    python scripts/write_demo_commands.py 20000 > commands.jsonl
    python scripts/write_demo_commands.py 2000 --held-out > task.jsonl

A line is a golden prompt: the command as a conversation, and the action that is right. Commands with
--held-out mean what never occurs without it, in any wording.
"""

from __future__ import annotations

import argparse
import json
import random
import sys

from demo_grammar import Command, draw


def commands(count: int, seed: int, *, held_out: bool) -> list[Command]:
    """Return `count` different commands, the same ones for the same seed."""
    chance = random.Random(f"{seed} {held_out}")  # noqa: S311 - the same seed must say the same commands
    found: dict[str, Command] = {}
    while len(found) < count:
        command = draw(chance, held_out=held_out)
        found[command.text] = command
    return list(found.values())


def main() -> None:
    """Write the lines to standard output."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", type=int, help="how many different commands")
    parser.add_argument("--seed", type=int, default=1, help="decides which")
    parser.add_argument("--held-out", action="store_true", help="only what is never trained on")
    said = parser.parse_args()
    for command in commands(said.count, said.seed, held_out=said.held_out):
        messages = [{"role": "user", "content": command.text}]
        line = {"messages": messages, "expect": json.loads(command.meaning.answer()), "match": "json"}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
