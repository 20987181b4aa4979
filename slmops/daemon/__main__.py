"""`python -m slmops.daemon` (`slmopsd`): serve artifacts until told to stop; and the small tools beside it.

    serve    the daemon itself; the word may be left out
    ctl      ask a running daemon to load, gate, promote, roll back, drop; see how it stands
    keys     make, list and revoke keys
    unit     print a hardened unit for systemd

Exit codes of serve: 0 after a stop that was asked for (SIGTERM, SIGINT), 1 when it cannot serve. Law: what
fails says why on stderr, and after `next:` what would help, and nothing of how we found out.
"""

from __future__ import annotations

import sys

from slmops.errors import SlmopsError

TOOLS = ("ctl", "keys", "unit")


def main() -> int:
    """Run what the first word says; return the exit code."""
    try:
        return _run(sys.argv[1:])
    except SlmopsError as error:
        sys.stderr.write(f"slmopsd: {error}\n" + (f"next: {error.remedy}\n" if error.remedy else ""))
        return error.exit_code
    except OSError as error:
        sys.stderr.write(
            f"slmopsd: {error}\nnext: See that the path is there, and that you may write to it.\n"
        )
        return 1


def _run(words: list[str]) -> int:
    tool = words[0] if words else ""
    # Each is imported alone: what a tool does not need, it does not wait for.
    if tool == "ctl":
        from slmops.daemon import ctl  # noqa: PLC0415

        return ctl.main(words[1:])
    if tool == "keys":
        from slmops.daemon import issue_keys  # noqa: PLC0415

        return issue_keys.main(words[1:])
    if tool == "unit":
        from slmops.daemon import unit  # noqa: PLC0415

        return unit.main(words[1:])
    from slmops.daemon import run  # noqa: PLC0415

    return run.main(words[1:] if tool == "serve" else words)


if __name__ == "__main__":
    sys.exit(main())
