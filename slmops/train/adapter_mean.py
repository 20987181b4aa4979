"""The mean of several sites' adapters: of what they add to a model, and, for comparison, of their factors.

Pure. A mean of B x A is not the mean of B times the mean of A: averaging factors, as many do, gives another
adapter. Exactly, the products are added as stacks of factors, and a small core between two QRs is split
by SVD (weights: McMahan et al. 2017; what goes wrong with factors: Sun et al. 2024, Wang et al. 2024).

Laws: nothing as large as a matrix of the model is made; the order of the sites does not matter; at full
rank nothing is lost; whatever the ranks and alphas of the sites, what counts is what they add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slmops.errors import TrainingError
from slmops.train.adapter import Adapter, Factors, Numbers

EXACT = 2.0**-24
"""Share of a matrix that may go unnoticed: what rounding to float32 costs anyway."""
ROUNDING = 2.0**-45
"""What rounding in float64 may leave of nothing."""
Wide = NDArray[np.float64]
_GIVE = "Give adapters that were trained on the same model with the same targets."


@dataclass(frozen=True)
class Gap:
    """How far two other adapters lie from the exact mean: Frobenius norms, relative to that of the mean."""

    naive: float | None
    """Of the product of mean factors; None where ranks or scalings differ, and there is none."""
    cut: float
    """Of the mean at the rank that is kept."""


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean of adapters."""

    adapter: Adapter
    full_rank: int
    """The smallest rank that loses nothing."""
    modules: Mapping[str, Gap]
    overall: Gap


@dataclass(frozen=True)
class _Norms:
    """Frobenius norms: of the exact mean, and of how far the others lie from it."""

    exact: float
    naive: float | None
    cut: float


@dataclass(frozen=True, eq=False)
class _Product:
    """A matrix of [outputs, inputs] as left x right, and its singular values."""

    left: Wide
    right: Wide
    values: Wide
    """Singular values, largest first; left and right are scaled by their roots."""

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.values))

    @property
    def rank(self) -> int:
        """Return the smallest rank that loses nothing."""
        return next(rank for rank in range(len(self.values) + 1) if self.lost(rank) <= EXACT * self.norm)

    def lost(self, rank: int) -> float:
        """Return the norm of what is not in the first `rank` directions."""
        return float(np.linalg.norm(self.values[rank:]))

    def apart(self, naive: Factors, scaling: float) -> float:
        """Return the norm of the difference from scaling x b @ a."""
        left = np.concatenate([self.left, -scaling * naive.b.astype(np.float64)], axis=1)
        return _product(left, np.concatenate([self.right, naive.a.astype(np.float64)])).norm

    def factors(self, rank: int) -> Factors:
        """Return the best factors of that rank, filled up with zeros where there is no more."""
        more = max(0, rank - len(self.values))
        a = np.pad(self.right[:rank], ((0, more), (0, 0)))
        b = np.pad(self.left[:, :rank], ((0, 0), (0, more)))
        return Factors(a.astype(np.float32), b.astype(np.float32))


def average(
    adapters: Sequence[Adapter], samples: Sequence[int], rank: int | None = None, *, naive: bool = False
) -> Mean:
    """Return the mean of `adapters`, each weighted by its samples, at `rank` or where nothing is lost.

    With `naive` it is the mean of the factors that is returned, for which all have one rank and scaling.
    Raises TrainingError for adapters that cannot be averaged, and for a rank that no mean of them has.
    """
    _check(adapters, samples)
    shares = [count / sum(samples) for count in samples]
    exact = {name: _exact(adapters, shares, name) for name in adapters[0].factors}
    full = max(1, *(product.rank for product in exact.values()))
    kept = full if rank is None else _possible(rank, adapters)
    plain = _naive(adapters, shares)
    if naive and plain is None:
        raise TrainingError(
            "the sites' adapters differ in r or alpha: their factors have no mean",
            remedy="Average them exactly (without --naive).",
        )
    scaling = adapters[0].scaling
    found = {
        name: _Norms(
            product.norm, None if plain is None else product.apart(plain[name], scaling), product.lost(kept)
        )
        for name, product in exact.items()
    }
    made = Adapter(
        adapters[0].config if naive else {**adapters[0].config, **_said(kept)},
        plain if naive and plain else {name: product.factors(kept) for name, product in exact.items()},
        _whole(adapters, shares),
        replace(adapters[0].origin, samples=sum(samples), seed=None),
    )
    gaps = {name: _gap([norms]) for name, norms in found.items()}
    return Mean(made, full, gaps, _gap([*found.values()]))


def _exact(adapters: Sequence[Adapter], shares: Sequence[float], name: str) -> _Product:
    left = [
        share * one.scaling * one.factors[name].b.astype(np.float64)
        for one, share in zip(adapters, shares, strict=True)
    ]
    right = [one.factors[name].a.astype(np.float64) for one in adapters]
    return _product(np.concatenate(left, axis=1), np.concatenate(right))


def _product(left: Wide, right: Wide) -> _Product:
    """Return left x right split by its singular values, from the small core between two QRs."""
    outer, left_core = np.linalg.qr(left)
    inner, right_core = np.linalg.qr(right.T)
    u, values, v = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
    # What sites cancel is nothing, and not the rounding that is left of it.
    values[values < ROUNDING * np.linalg.norm(left_core) * np.linalg.norm(right_core)] = 0
    roots = np.sqrt(values)
    return _Product(outer @ (u * roots), (roots[:, None] * v) @ inner.T, values)


def _naive(adapters: Sequence[Adapter], shares: Sequence[float]) -> dict[str, Factors] | None:
    """Return the mean of A and the mean of B; None where they cannot be added."""
    if len({(one.rank, one.scaling) for one in adapters}) > 1:
        return None
    return {
        name: Factors(
            _mean([one.factors[name].a for one in adapters], shares),
            _mean([one.factors[name].b for one in adapters], shares),
        )
        for name in adapters[0].factors
    }


def _whole(adapters: Sequence[Adapter], shares: Sequence[float]) -> dict[str, Numbers]:
    return {name: _mean([one.whole[name] for one in adapters], shares) for name in adapters[0].whole}


def _mean(numbers: Sequence[Numbers], shares: Sequence[float]) -> Numbers:
    return np.average(np.asarray(numbers, np.float64), axis=0, weights=shares).astype(np.float32)


def _said(rank: int) -> dict[str, int | bool]:
    """Return what a config says of an adapter whose factors are not scaled."""
    return {"r": rank, "lora_alpha": rank, "use_rslora": False}


def _gap(found: Sequence[_Norms]) -> Gap:
    """Return the gaps of several matrices taken as one."""
    whole = _together([norms.exact for norms in found])
    naive = [norms.naive for norms in found if norms.naive is not None]
    return Gap(
        _relative(_together(naive), whole) if naive else None,
        _relative(_together([norms.cut for norms in found]), whole),
    )


def _together(norms: Sequence[float]) -> float:
    return float(np.linalg.norm(norms))


def _relative(difference: float, whole: float) -> float:
    return difference / whole if whole else float(difference > 0)


def _check(adapters: Sequence[Adapter], samples: Sequence[int]) -> None:
    if not adapters or min(samples) < 1:
        raise TrainingError(
            f"expected adapters, each with samples above 0, got {len(adapters)} with {list(samples)}",
            remedy="Say each as DIR=SAMPLES.",
        )
    first = adapters[0]
    for one in adapters[1:]:
        if one.origin.base_digest != first.origin.base_digest:
            raise TrainingError(
                f"the adapters belong to two models: {first.origin.base} and {one.origin.base}", remedy=_GIVE
            )
        apart = sorted(_shapes(one).items() ^ _shapes(first).items())
        if apart:
            raise TrainingError(
                f"the adapters do not change the same matrices: {apart[0][0]} is in one as "
                f"{list(apart[0][1])}, and not so in another",
                remedy=_GIVE,
            )


def _shapes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {name: one.shape for name, one in adapter.factors.items()}
    return shapes | {name: numbers.shape for name, numbers in adapter.whole.items()}


def _possible(rank: int, adapters: Sequence[Adapter]) -> int:
    together = sum(one.rank for one in adapters)
    most = max(min(together, *one.shape) for one in adapters[0].factors.values())
    if not 1 <= rank <= most:
        raise TrainingError(
            f"expected a rank from 1 to {most}, which is all that these adapters have together, got {rank}",
            remedy="Leave --rank out to lose nothing.",
        )
    return rank
