"""The model card of an artifact: a README.md as the Hugging Face hub knows it, for people and tools.

Pure: the same description and report give the same text.
"""

from __future__ import annotations

import json

from slmops.artifact.description import Description
from slmops.build.ledger import Ledger, markdown


def render(
    said: Description, *, size: int, bits_per_weight: float, reason: str, fallback_share: float
) -> str:
    """Return the card; `size` in bytes; `fallback_share` of the weights are not of the label's type."""
    measured, unit = said.measured, "tokens" if "tokens" in said.measured else "texts"
    front = {
        "library_name": "gguf" if said.format == "gguf" else "onnxruntime",
        "tags": ["slmops", said.format, said.type, *(["lora"] if said.adapter else [])],
        "base_model": said.source["id"],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    honest = f"; {fallback_share:.0%} of the weights could not have that type" if fallback_share else ""
    what = (
        f"{said.architecture}, {said.parameters:,} parameters, {said.format} {said.type}: {size:,} bytes, "
        f"{bits_per_weight:.2f} bits per weight{honest}."
    )
    return "\n".join(
        [
            "---",
            *lines,
            "---",
            "",
            f"# {said.reference} for {said.profile}",
            "",
            what,
            *_adapted(said),
            f"Predicted memory of the daemon: {said.memory_bytes:,} bytes at {said.context} tokens.",
            "",
            f"| measured against the source{' merged with the adapter' if said.adapter else ''} | |",
            "|---|---|",
            f"| KL divergence, mean (nats) | {measured['kl_mean']:.3g} |",
            f"| KL divergence, 99th percentile (nats) | {measured['kl_p99']:.3g} |",
            f"| same first choice | {measured['top1']:.2%} |",
            *_perplexity(measured),
            *_accuracy(measured),
            f"| {unit} compared | {measured[unit]:.0f} |",
            "",
            f"Why this type: {reason}",
            "",
            f"Source: {said.source['id']}, {said.source['digest']}.",
            "",
        ]
    )


def _adapted(said: Description) -> list[str]:
    if said.adapter is None:
        return []
    worn = f"{said.adapter} ({said.source['adapter']})"
    return [f"It is served with a LoRA adapter, {worn}; the model alone is that of {said.base}."]


def _perplexity(measured: dict[str, float]) -> list[str]:
    if "perplexity" not in measured:
        return []
    own, source = measured["perplexity"], measured["source_perplexity"]
    low, high = measured["perplexity_low"], measured["perplexity_high"]
    return [f"| perplexity (95 % interval), source's | {own:.4g} ({low:.4g} to {high:.4g}), {source:.4g} |"]


def _accuracy(measured: dict[str, float]) -> list[str]:
    if "accuracy" not in measured:
        return []
    own, source = measured["accuracy"], measured["source_accuracy"]
    low, high = measured["accuracy_low"], measured["accuracy_high"]
    return [f"| accuracy (95 % interval), source's | {own:.2%} ({low:.2%} to {high:.2%}), {source:.2%} |"]


def with_ledger(card: str, ledger: Ledger) -> str:
    """Return the card with what each step on the model's way cost, in place of what it said of that."""
    before, _, _ = card.partition(f"\n{_WAY}\n")
    if not ledger.stages:
        return before
    said = "; ".join(f"{name}: {value}" for name, value in ledger.gauge.items() if value)
    return "\n".join([before.rstrip("\n"), "", _WAY, "", *markdown(ledger), "", f"Measured with {said}.", ""])


_WAY = "## The way here"
