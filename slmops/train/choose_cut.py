"""Choose what to cut: of all next cuts the one that loses least for each weight it saves, as measured.

Losses grow as a model shrinks, so what a cut cost before is taken as the least it costs now: only the cut
that looks cheapest is measured again, until the cheapest one is measured. What is cheapest at each step is
not always cheapest in the end: the same is begun from the model without one layer, two, four, ..., too, and
what loses least in the end is chosen.

Laws: what is chosen is never larger than what is wanted; the same model and text give the same choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from slmops.build.family_terms import Shape
from slmops.build.isolate import Progress
from slmops.errors import UsageError
from slmops.train.cut_model import Knife
from slmops.train.cuts import Body, Keep, runs_alike
from slmops.train.pruning import HEADS, LAYERS, MLP, WIDTH, Wanted
from slmops.train.study_influence import Ranks
from slmops.train.weigh_cut import Scale

RUNGS = 12
"""Steps, about, from a whole axis to the least of it."""
BLOCKS = ((768, 256), (64, 32), (0, 8))
"""From such a width on, widths that stay are multiples of this: what ggml's types come in."""


@dataclass(frozen=True)
class Step:
    """One cut that was chosen."""

    axis: str
    what: str
    parameters: int
    """That are left after it."""
    divergence: float
    """From the uncut model after it, nats."""


@dataclass(frozen=True)
class Choice:
    """What stays, and how it came to that."""

    keep: Keep
    steps: tuple[Step, ...]
    without: tuple[float, ...]
    """Divergence of the model that lacks one layer, for each; empty where that was not asked."""
    measured: int
    """Cut models that were measured."""


@dataclass(frozen=True)
class _State:
    """How much stays: the layers themselves, and of the rest the number."""

    layers: tuple[int, ...]
    groups: int
    inner: int
    hidden: int


@dataclass(frozen=True)
class _Move:
    """A next cut: of an axis, or of these layers."""

    axis: str
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class _Way:
    """Cuts from the whole model to a smaller one."""

    state: _State
    steps: tuple[Step, ...] = ()
    guesses: dict[_Move, float] = field(default_factory=dict)
    """What each next cut lost for each weight it saved, when it was last measured on this way."""


def block_of(width: int) -> int:
    """Return what the widths that stay of one of `width` are multiples of."""
    return next(block for least, block in BLOCKS if width >= least)


def rungs(width: int) -> list[int]:
    """Return the widths that one of `width` is cut to, the widest first."""
    block = block_of(width)
    step = max(1, round(width / RUNGS / block)) * block
    return list(range((width - 1) // step * step, 0, -step))


class Chooser:
    """Chooses for one model."""

    def __init__(
        self, knife: Knife, body: Body, shapes: Mapping[str, Shape], ranks: Ranks, scale: Scale
    ) -> None:
        """Take what cuts, what is known of structures, and what weighs."""
        self._knife, self._body, self._shapes, self._ranks, self._scale = knife, body, shapes, ranks, scale
        sizes = body.sizes
        self._whole = _State(tuple(range(sizes.layers)), sizes.kv_heads, sizes.inner, sizes.hidden)
        self._losses: dict[_State, float] = {self._whole: 0.0}

    def choose(self, wanted: Wanted, progress: Progress) -> Choice:
        """Return what stays of the model; raise UsageError where nothing small enough would."""
        begun = self._as_said(wanted, progress)
        best = self._cut_down(begun, wanted, progress)
        if self._excess(best, wanted) > 0:
            raise self._too_little(best, wanted.free)
        best = self._filled(best, wanted)
        for start in self._shallower(begun, wanted, progress):
            least = self._loss(best.state)
            if self._loss(start.state) >= least:
                break
            other = self._cut_down(start, wanted, progress, most=least)
            if self._excess(other, wanted) <= 0:
                best = min(best, self._filled(other, wanted), key=lambda way: self._loss(way.state))
        return Choice(self._keep(best.state), best.steps, self._without(), len(self._losses) - 1)

    def _as_said(self, wanted: Wanted, progress: Progress) -> _Way:
        """Return the way to what is said outright; which layers stay is measured."""
        way = _Way(self._whole)
        for axis, after in self._said(wanted):
            way = self._on(way, axis, "as it was said", after)
        while wanted.layers is not None and len(way.state.layers) > wanted.layers:
            after_it = self._step(way, (LAYERS,), progress, least=wanted.layers)
            if after_it is None:
                raise self._too_little(way, (LAYERS,))
            way = after_it
        return way

    def _cut_down(self, way: _Way, wanted: Wanted, progress: Progress, most: float = math.inf) -> _Way:
        """Return the way on until it is small enough, nothing is left to cut, or it loses `most`."""
        while (excess := self._excess(way, wanted)) > 0 and self._loss(way.state) < most:
            after = self._step(way, wanted.free, progress, excess=excess)
            if after is None:
                break
            way = after
        return way

    def _filled(self, way: _Way, wanted: Wanted) -> _Way:
        """Return the way with what there is room to have back."""
        while (back := self._back(way.state, wanted)) is not None:
            axis, what, state = back
            way = self._on(way, axis, f"{what}: there is room", state)
        return way

    def _shallower(self, way: _Way, wanted: Wanted, progress: Progress) -> Iterator[_Way]:
        """Yield the ways to one layer fewer, two, four, ..., as long as it is too large."""
        for number in itertools.count(1):
            if LAYERS not in wanted.free or (excess := self._excess(way, wanted)) <= 0:
                return
            after = self._step(way, (LAYERS,), progress, excess=excess)
            if after is None:
                return
            way = after
            if number & (number - 1) == 0 or self._excess(way, wanted) <= 0:
                yield way

    def _excess(self, way: _Way, wanted: Wanted) -> float:
        return wanted.excess(self._keep(way.state))

    def _too_little(self, way: _Way, axes: tuple[str, ...]) -> UsageError:
        return UsageError(
            f"so little cannot be left: what may be cut ({', '.join(axes) or 'nothing'}) leaves at least "
            f"{self._parameters(way.state):,} weights",
            remedy="Ask for more, allow more --axes, or trim the vocabulary too (--vocabulary FILE).",
        )

    def _said(self, wanted: Wanted) -> Iterator[tuple[str, _State]]:
        """Yield the whole model with one width after another as it is said outright."""
        state, wide = self._whole, self._body.hidden_of_group
        if wanted.inner is not None:
            yield MLP, (state := replace(state, inner=wanted.inner))
        if wanted.groups is not None:
            hidden = wanted.groups * wide or state.hidden
            yield HEADS, (state := replace(state, groups=wanted.groups, hidden=hidden))
        if wanted.hidden is not None and not wide:
            yield WIDTH, replace(state, hidden=wanted.hidden)

    def _step(
        self,
        way: _Way,
        axes: tuple[str, ...],
        progress: Progress,
        *,
        least: int = 1,
        excess: float = math.inf,
    ) -> _Way | None:
        """Return the way on by the cheapest next cut that leaves `least` layers; None where there is none.

        To save more than `excess` is no gain.
        """
        state = way.state
        offers = {move: after for move, after in self._moves(state, axes) if len(after.layers) >= least}
        if not offers:
            return None
        guesses, fresh = dict(way.guesses), set[_Move]()
        while (best := min(offers, key=lambda move: guesses.get(move, -math.inf))) not in fresh:
            saved = min(self._parameters(state) - self._parameters(offers[best]), excess)
            guesses[best] = (self._loss(offers[best]) - self._loss(state)) / saved
            fresh.add(best)
            progress("weighing cuts", len(self._losses) / (len(self._losses) + len(offers)))
        return self._on(replace(way, guesses=guesses), best.axis, _words(best, offers[best]), offers[best])

    def _on(self, way: _Way, axis: str, what: str, state: _State) -> _Way:
        """Return the way with one more step."""
        step = Step(axis, what, self._parameters(state), self._loss(state))
        return _Way(state, (*way.steps, step), way.guesses)

    def _moves(self, state: _State, axes: tuple[str, ...]) -> Iterator[tuple[_Move, _State]]:
        """Yield what may be cut next, and what is left then."""
        if LAYERS in axes:
            yield from self._fewer_layers(state)
        whole, wide = self._whole, self._body.hidden_of_group
        if state.groups > 1 and (HEADS in axes or (wide and WIDTH in axes)):
            groups = max(1, state.groups - max(1, round(whole.groups / RUNGS)))
            yield _Move(HEADS), replace(state, groups=groups, hidden=groups * wide or state.hidden)
        narrower = next((rung for rung in rungs(whole.inner) if rung < state.inner), None)
        if narrower and MLP in axes:
            yield _Move(MLP), replace(state, inner=narrower)
        narrower = next((rung for rung in rungs(whole.hidden) if rung < state.hidden), None)
        if narrower and WIDTH in axes and not wide:
            yield _Move(WIDTH), replace(state, hidden=narrower)

    def _fewer_layers(self, state: _State) -> Iterator[tuple[_Move, _State]]:
        """Yield the model without a layer, or, where kinds of layers alternate, without as many as repeat."""
        for length in range(1, _period(self._body.config.get("layer_types") or []) + 1):
            for start in range(len(state.layers) - length + 1):
                layers = state.layers[:start] + state.layers[start + length :]
                after = replace(state, layers=layers)
                if layers and runs_alike(self._body, self._keep(after)):
                    yield _Move(LAYERS, state.layers[start : start + length]), after

    def _back(self, state: _State, wanted: Wanted) -> tuple[str, str, _State] | None:
        """Return the best way to have back something that left, if there is room for any that helps."""
        offers = [one for one in self._wider(state, wanted.free) if wanted.excess(self._keep(one[2])) <= 0]
        # Of what differs by nothing but how much of one axis is back, the most.
        most = {
            (axis, after.layers): (axis, what, after) for axis, what, after in sorted(offers, key=self._size)
        }
        best = min(most.values(), key=lambda one: self._loss(one[2]), default=None)
        return best if best is not None and self._loss(best[2]) < self._loss(state) else None

    def _size(self, offer: tuple[str, str, _State]) -> int:
        return self._parameters(offer[2])

    def _wider(self, state: _State, axes: tuple[str, ...]) -> Iterator[tuple[str, str, _State]]:
        """Yield the model with something back that left: which axis, what, and what is left then."""
        whole, wide = self._whole, self._body.hidden_of_group
        if MLP in axes:
            block = block_of(whole.inner)
            widths = {whole.inner, *range((whole.inner - 1) // block * block, state.inner, -block)}
            for inner in widths - {state.inner}:
                yield MLP, f"back to {inner} channels", replace(state, inner=inner)
        if state.groups < whole.groups and (HEADS in axes or (wide and WIDTH in axes)):
            groups = state.groups + 1
            more = replace(state, groups=groups, hidden=groups * wide or state.hidden)
            yield HEADS, f"back to {groups} key-value heads", more
        broader = [rung for rung in (whole.hidden, *rungs(whole.hidden)) if rung > state.hidden]
        if broader and WIDTH in axes and not wide:
            yield WIDTH, f"back to {broader[-1]} channels", replace(state, hidden=broader[-1])
        for layer in whole.layers if LAYERS in axes else ():
            more = replace(state, layers=tuple(sorted({*state.layers, layer})))
            if layer not in state.layers and runs_alike(self._body, self._keep(more)):
                yield LAYERS, f"layer {layer} back", more

    def _keep(self, state: _State) -> Keep:
        return self._ranks.keep(state.layers, state.groups, state.inner, state.hidden)

    def _without(self) -> tuple[float, ...]:
        layers = self._whole.layers
        alone = [replace(self._whole, layers=layers[:one] + layers[one + 1 :]) for one in layers]
        return tuple(self._losses[one] for one in alone) if all(one in self._losses for one in alone) else ()

    def _loss(self, state: _State) -> float:
        if state not in self._losses:
            self._losses[state] = self._scale.weigh(self._knife.cut(self._keep(state))).divergence
        return self._losses[state]

    def _parameters(self, state: _State) -> int:
        return self._body.parameters(self._shapes, self._keep(state))


def _period(kinds: list[str]) -> int:
    """Return after how many layers the kinds of layers repeat; 1 where there is one kind."""
    repeats = (n for n in range(1, len(kinds)) if all(a == b for a, b in zip(kinds, kinds[n:], strict=False)))
    return next(repeats, 1)


def _words(move: _Move, after: _State) -> str:
    if move.axis == LAYERS:
        return f"without layer {', '.join(map(str, move.layers))}"
    number = {HEADS: after.groups, MLP: after.inner, WIDTH: after.hidden}[move.axis]
    return f"{number} {'key-value heads' if move.axis == HEADS else 'channels'} left"
