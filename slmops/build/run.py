"""Carry out a recipe: plan, build what may be best, measure it, choose, and fill a folder per profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slmops.artifact.golden import Golden
from slmops.build.cache import tools
from slmops.build.checkpoint import Checkpoint
from slmops.build.choice import Outcome, Pick, pick
from slmops.build.divergence import Measurement, judge
from slmops.build.importance import Importance
from slmops.build.mix import mix
from slmops.build.plan import AUTO, MIXED, Base, Make, Plan, Wish, dropped_for
from slmops.build.quality import Quality
from slmops.build.quantize_gguf import plan_gguf
from slmops.build.read_origin import read_origin, recipe_digest
from slmops.build.recipe import Recipe
from slmops.build.scheme import GGML_TYPES
from slmops.build.source import Source
from slmops.build.steps import Model, Reading, Steps
from slmops.build.tolerance import TOLERANCES, Reused, Tried
from slmops.build.wrap import Built, Named, wrap
from slmops.errors import BuildError, ModelError
from slmops.profile.device import DeviceProfile, Format
from slmops.profile.fit import Candidate, hold, most_bytes

ROUNDS = 3
"""Tries to find a mix whose measured loss, not only the predicted one, is just low enough."""
NEAR = 0.9
"""What part of the loss that is allowed is near enough to it."""
NO_LOSS = 1e-9
"""Nats: a measured loss is not taken to be less."""
TIGHTER = 1 / 3
"""What is allowed next, of what was good enough and did not keep the rest of the gate."""


@dataclass(frozen=True)
class Result:
    """What became of one profile."""

    profile: DeviceProfile
    pick: Pick
    plan: Plan
    gate: Quality | None
    """None where the type was named outright."""
    most_bytes: dict[Format, int]
    """Of each format that the profile takes, the largest model file that fits and is fast enough."""
    reused: Reused | None = None
    """What the scales of the delta base came to, where there is one."""


class Run:
    """A recipe being carried out."""

    def __init__(
        self, source: Source, recipe: Recipe, wishes: Sequence[Wish], steps: Steps, called: str
    ) -> None:
        """Prepare; `called` is what a model card may call the source."""
        self.source, self.recipe, self.steps, self.called = source, recipe, steps, called
        self.wishes = list(wishes)
        self._models: dict[Make, Model] = {}
        self._measured: dict[Make, Measurement] = {}

    def build(self, planned: Plan, asked: Sequence[Golden], room: Path) -> tuple[list[Built], list[Result]]:
        """Build, measure and choose; fill a folder in `room` for each profile.

        Without `asked`, golden prompts are recorded. Raises QualityError when nothing good enough fits.
        """
        importance = self._importance()
        failed = self._make(planned.makes, importance, asked)
        results = [
            self._result(wish, dropped_for(planned, failed), importance, asked) for wish in self.wishes
        ]
        chosen = [self._models[result.pick.best.make] for result in results]
        context = min(wish.profile.serve.context for wish in self.wishes)
        golden = list(asked) or self.steps.golden(chosen, context)
        built = [
            wrap(
                self._named(model.make, importance, each.reused),
                each.profile,
                each.pick,
                model,
                golden=[*golden, *self.steps.references(model, context)],
                folder=room / each.profile.name,
            )
            for each, model in zip(results, chosen, strict=True)
        ]
        if asked:
            built = [
                replace(one, unanswered=tuple(self.steps.unanswered(model, asked, context)))
                for one, model in zip(built, chosen, strict=True)
            ]
        return built, results

    def rebuild(self, makes: Sequence[Make]) -> dict[Make, Path]:
        """Build `makes` again and nothing else; return their files. What cannot be built raises its error."""
        importance = self._importance()
        found = {make: self.steps.models([make], importance)[0] for make in dict.fromkeys(makes)}
        return {make: models[make].file for make, models in found.items()}

    def _importance(self) -> Importance | None:
        said = self.recipe.calibration
        return self.steps.importance(Path(said.file), said.tokens) if said else None

    def _make(
        self, makes: Sequence[Make], importance: Importance | None, asked: Sequence[Golden]
    ) -> dict[Make, str]:
        """Build and measure; return why some of it is not to be had. A single one raises its error."""
        models, failed = self.steps.models(makes, importance)
        reading = self.recipe.evaluation
        how = Reading(reading.tokens, Path(reading.file) if reading.file else None)
        found = self._measure(list(models.values()), how, asked)
        for (make, model), measured in zip(models.items(), found, strict=True):
            try:
                if isinstance(measured, BuildError):
                    raise measured
                judge(measured, _coarsest(make))
            except BuildError as error:
                if len(makes) == 1:
                    raise
                failed[make] = str(error)
            else:
                self._models[make], self._measured[make] = model, measured
        return failed

    def _measure(
        self, models: list[Model], how: Reading, asked: Sequence[Golden]
    ) -> list[Measurement | BuildError]:
        """Measure models; one that cannot be measured does not keep the others from it."""
        try:
            return [*self.steps.measure(models, how, asked)]
        except BuildError as error:
            if len(models) == 1:
                return [error]
            return [one for model in models for one in self._measure([model], how, asked)]

    def _result(
        self, wish: Wish, planned: Plan, importance: Importance | None, asked: Sequence[Golden]
    ) -> Result:
        profile = wish.profile
        makes = [row.make for row in planned.rows[profile.name] if not row.dropped]
        if not makes:
            reasons = "\n  ".join(f"{row.make}: {row.dropped}" for row in planned.rows[profile.name])
            raise BuildError(f"nothing could be built for {profile.name}:\n  {reasons}")
        gate = self.recipe.gate if wish.is_open or self.recipe.quality else None
        reused = None
        if wish.base and wish.base.has_scales:
            makes, reused = self._reusing(makes[0], wish.base, importance, asked)
        elif wish.is_open and not wish.base and self.recipe.mixed and wish.format in (AUTO, "gguf"):
            makes += self._mixes(profile, importance, asked)
        outcomes = [self._outcome(profile, make) for make in makes]
        most = {format_: most_bytes(profile, self.source.shape, format_) for format_ in profile.formats}
        picked = pick(profile, outcomes, gate)
        if reused:
            picked = replace(picked, reason=f"{picked.reason}; {reused.words}")
        return Result(profile, picked, planned, gate, most, reused)

    def _reusing(
        self, plain: Make, base: Base, importance: Importance | None, asked: Sequence[Golden]
    ) -> tuple[list[Make], Reused]:
        """Build `plain` with scales of `base`, by each tolerance; return what to take, and what all cost."""
        makes = [replace(plain, base=base.digest, tolerance=tolerance) for tolerance in TOLERANCES]
        failed = self._make([make for make in makes if make not in self._models], importance, asked)
        tried = {
            make.tolerance: Tried(
                make.tolerance, self._models[make].report.reused_share, self._measured[make].kl_mean
            )
            for make in makes
            if make not in failed
        }
        reused = Reused(base.release, self._measured[plain].kl_mean, tuple(tried.values()))
        taken = reused.taken
        chosen = replace(plain, base=base.digest, tolerance=taken.tolerance) if taken else plain
        return [chosen], reused

    def _mixes(
        self, profile: DeviceProfile, importance: Importance | None, asked: Sequence[Golden]
    ) -> list[Make]:
        """Search types tensor by tensor for what this device has room for; return what was built.

        What was predicted to be just good enough may be measured to be better or worse; then more or less
        is allowed, and it is tried again.
        """
        shapes = self._mixable(profile)
        if not shapes:
            return []
        options = self.steps.options(importance)
        fixed = dict.fromkeys(shapes - options.keys(), "F32")
        smallest = {name: min(each, key=lambda one: one.nbytes) for name, each in options.items()}
        types = {**fixed, **{name: one.type for name, one in smallest.items()}}
        least = plan_gguf(self.steps.checkpoint, MIXED, types, importance).predicted_bytes
        room = most_bytes(profile, self.source.shape, "gguf")
        most = room - least + sum(one.nbytes for one in smallest.values())
        allowed, found = self.recipe.gate.enough, list[Make]()
        for _ in range(ROUNDS if room >= least else 0):
            mixed = mix(options, most, allowed)
            make = Make("gguf", MIXED, tuple(sorted({**fixed, **mixed.types}.items())))
            if make in found or not self._has(make, importance, asked):
                break
            found.append(make)
            if mixed.loss > allowed or not (step := self._step(self._measured[make])):
                break
            allowed = mixed.loss * step
        return found

    def _mixable(self, profile: DeviceProfile) -> set[str]:
        """Return the names of the tensors whose types may be searched; none where nothing is to be."""
        if self.steps.gguf or not isinstance(self.source, Checkpoint) or "gguf" not in profile.formats:
            return set()
        try:
            return {tensor.name for tensor in plan_gguf(self.source, "F16").tensors}
        except ModelError:  # the plan has said so of every GGUF type
            return set()

    def _has(self, make: Make, importance: Importance | None, asked: Sequence[Golden]) -> bool:
        """Build and measure `make` unless it is there; return whether it is now."""
        try:
            return make in self._models or not self._make([make], importance, asked)
        except BuildError:
            return False

    def _step(self, measured: Measurement) -> float:
        """Return by what the loss that is allowed is to change, after this; 0 when it is right as it is."""
        gate, loss = self.recipe.gate, measured.kl_mean
        if loss <= gate.enough and gate.complaint(measured):
            return TIGHTER
        if NEAR * gate.enough <= loss <= gate.enough:
            return 0.0
        return gate.enough / max(loss, NO_LOSS) * (1 + NEAR) / 2

    def _outcome(self, profile: DeviceProfile, make: Make) -> Outcome:
        report = self._models[make].report
        fit = hold(profile, self.source.shape, [Candidate(make.format, make.type, report.bytes)])[0]
        return Outcome(make, report.bytes, report.bits_per_weight, fit, self._measured[make])

    def _named(self, make: Make, importance: Importance | None, reused: Reused | None) -> Named:
        source = self.source
        provenance = self._provenance(importance if self.steps.weighs(make) else None)
        reuse = dict[str, float]()
        if reused and reused.taken:
            provenance |= {"delta_base": f"{reused.base} {make.base}"}
            reuse = reused.taken.figures(reused.kl_mean)
        return Named(self.recipe.name, self.recipe.version, source, source.shape, provenance, reuse=reuse)

    def _provenance(self, importance: Importance | None) -> dict[str, str]:
        said = {"id": self.called, "digest": self.steps.digest, **read_origin(self.source), **tools()}
        said["recipe"] = recipe_digest(self.recipe)
        if importance is not None:
            said |= {"calibration": importance.digest, "calibration_tokens": str(importance.tokens)}
        if self.recipe.evaluation.file:
            said["evaluation"] = self.steps.cache.digest_of(Path(self.recipe.evaluation.file))
        return said


def _coarsest(make: Make) -> str:
    """Return the type by which a model is to be judged: of a mixed one, the type of fewest bits."""
    rounded = [name for _, name in make.types if name != "F32"]
    return min(rounded, key=lambda name: GGML_TYPES[name].nbytes / GGML_TYPES[name].block, default=make.type)


def called(said: str) -> str:
    """Return what a model card may call the source: a hub id as it is, of a path its last part alone."""
    path = Path(said).expanduser()
    return path.resolve().name if path.exists() else said
