"""slmops profile: what a device can bear."""

import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops import document
from slmops.cli import home
from slmops.cli.device_choice import at
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, say, size, table
from slmops.cli.status import ask_all
from slmops.fleet import probe
from slmops.fleet.load import find, load_fleet
from slmops.fleet.ssh import Link
from slmops.profile.detect import as_profile
from slmops.profile.device import DeviceProfile
from slmops.profile.load import load_profile, load_profiles
from slmops.profile.match import nearest
from slmops.profile.refinement import Observation, Refinement
from slmops.profile.refinement import refine as refine_profile
from slmops.profile.sizes import human_rate

app = verb("Device profiles: what a device can bear.", group=True)


@app.command("list")
def list_(output: Output = Form.TABLE) -> None:
    """List the profiles that come with slmops, and your own in $SLMOPS_HOME/profiles."""
    found = load_profiles(home.profiles())
    if output is Form.JSON:
        emit([profile.model_dump(mode="json") for profile in found])
        return
    rows = [
        (
            p.name,
            p.title,
            p.arch,
            p.cpu.cores,
            size(p.memory.total),
            f"{p.memory.bandwidth / 1e9:.1f} GB/s",
            ", ".join(p.formats),
        )
        for p in found
    ]
    table(("profile", "device", "arch", "cores", "memory", "bandwidth", "formats"), rows)


@app.command()
def show(
    profile: Annotated[str, typer.Argument(help="Name, or a .yaml file.")], output: Output = Form.TABLE
) -> None:
    """Show a profile as YAML: a starting point for your own."""
    _print(load_profile(profile, home.profiles()), output)


@app.command()
def detect(
    host: Annotated[str, typer.Argument(metavar="HOST", help="[user@]host[:port], or a name with --fleet.")],
    fleet: Annotated[
        Path | None, typer.Option("--fleet", "-f", metavar="FLEET.yaml", help="Take HOST from here.")
    ] = None,
    name: Annotated[str, typer.Option(help="What to call the profile.")] = "detected",
    output: Output = Form.TABLE,
) -> None:
    """Read a live device over SSH and print its profile. Nothing is installed there.

    slmops profile detect pi@kitchen > ~/.local/share/slmops/profiles/kitchen.yaml
    """
    device = find(load_fleet(fleet)[1], host) if fleet is not None else at(host)
    with Link(device, home.known_hosts()) as link:
        facts = probe.facts(link)
    like = nearest(facts, load_profiles(home.profiles()))
    say(
        f"{host} is like {like.name}."
        if like
        else f"{host} is like no profile known here; its speed is a guess."
    )
    _print(as_profile(facts, name, like), output)


@app.command()
def refine(
    profile: Annotated[str, typer.Argument(help="Name of the profile.")],
    fleet: Annotated[
        Path, typer.Option("--fleet", "-f", metavar="FLEET.yaml", help="Ask its devices of that profile.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Correct a profile by what its devices report: the bandwidth they decode with, the memory they take.

    Written to your own profiles in $SLMOPS_HOME/profiles, which go before those that come with slmops.
    """
    known = load_profile(profile, home.profiles())
    whole, devices = load_fleet(fleet)
    kind = [device for device in devices if device.profile == known.name]
    rows = ask_all(kind, max(whole.rollout.max_parallel, 1), exact=True)
    told = [_observation(row) for row in rows if _tells(row)]
    silent = [(row["device"], row.get("remark") or row["health"]) for row in rows if not _tells(row)]
    found = refine_profile(known, told, silent, f"{datetime.now().astimezone():%Y-%m-%d}")
    file = home.profiles() / f"{known.name}.yaml"
    if not dry_run:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(document.dumps(found.after), encoding="utf-8")
        fresh.replace(file)
    if output is Form.JSON:
        emit(_as_json(found, None if dry_run else file))
    else:
        _show(found)
        say(f"Nothing was changed. Without --dry-run: {file}" if dry_run else f"Wrote {file}")


def _tells(row: dict[str, Any]) -> bool:
    """Say whether a device serves something, and says what; agents before this version do not."""
    return bool(row.get("telemetry") and row.get("model", {}).get("model_bytes"))


def _observation(row: dict[str, Any]) -> Observation:
    seen, model = row["telemetry"], row["model"]
    predicted, memory = model["predicted"] or {}, row["memory"] or {}
    requests = max(seen["requests"], 1)
    held = (seen["prompt_tokens"] + seen["output_tokens"] / 2) / requests
    return Observation(
        device=row["device"],
        requests=seen["requests"],
        tokens=seen["later_tokens"],
        seconds=seen["later_seconds"],
        weight_bytes=model["model_bytes"],
        cache_bytes=predicted.get("kv_cache", 0) * min(held / model["context"], 1),
        layers=int(predicted.get("layers", 0)),
        predicted_bytes=row["memory_predicted"],
        peak_bytes=memory.get("peak"),
        mapped_bytes=memory.get("mapped", 0),
    )


def _show(found: Refinement) -> None:
    rows = [
        (
            one.device,
            one.requests,
            human_rate(one.tokens_per_second),
            size(one.weight_bytes),
            f"{(one.bandwidth or 0) / 1e9:.1f} GB/s",
            size(one.predicted_bytes),
            size(one.peak_bytes) if one.peak_bytes is not None else None,
            size(one.mapped_bytes) if one.mapped_bytes else None,
        )
        for one in found.used
    ]
    columns = ("device", "requests", "tok/s", "model", "bandwidth", "predicted", "peak", "of it mapped")
    table(columns, rows)
    for device, why in found.left_out:
        say(f"{device} was left out: {why}")
    before, after = found.before.memory, found.after.memory
    say(
        f"{found.before.name}: bandwidth {before.bandwidth / 1e9:.3g} -> {after.bandwidth / 1e9:.3g} GB/s: "
        f"large models are predicted {found.speed_factor:.2f} times as fast as before."
    )
    if found.shortfall:
        more, grown = size(found.shortfall), size(after.reserve - before.reserve)
        say(
            f"{found.before.name}: its daemons took {more} more than predicted; the reserve grows by {grown}."
        )


def _as_json(found: Refinement, file: Path | None) -> dict[str, Any]:
    return {
        "profile": found.before.name,
        "before": found.before.memory.model_dump(mode="json"),
        "after": found.after.memory.model_dump(mode="json"),
        "source": found.after.sources[-1],
        "speed_factor": found.speed_factor,
        "shortfall_bytes": found.shortfall,
        "used": [
            {**asdict(one), "tokens_per_second": one.tokens_per_second, "bandwidth": one.bandwidth}
            for one in found.used
        ],
        "left_out": [{"device": device, "reason": why} for device, why in found.left_out],
        "file": str(file) if file else None,
    }


def _print(profile: DeviceProfile, output: Form) -> None:
    if output is Form.JSON:
        emit(profile.model_dump(mode="json"))
    else:
        sys.stdout.write(document.dumps(profile))
