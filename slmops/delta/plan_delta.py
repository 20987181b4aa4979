"""Plan a delta: which operation makes which bytes of the target, tables apart.

Operator side; reads both files. Weights are matched by their names; what lies between two tensors, or in a
file that has none, is matched with what lies there in the base.

Laws: the operations make every byte of the target once; codes come after the scales that foretell them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from slmops.delta.delta import BLOCKS, BYTES, COPY, GRID, NEW, NEW_BLOCKS, WORDS, Operation
from slmops.delta.fields import LAYOUTS
from slmops.delta.follow import BLOCK, EIGHT_BITS, FOUR_BITS, NAMES
from slmops.delta.match_bytes import Planned, match_bytes
from slmops.delta.regions import Region, regions
from slmops.delta.sections import read, size

ALIKE = 1 << 14
"""Bytes of a tensor that are compared at a time: where none changed in so many, they are copied."""
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


class _File(NamedTuple):
    """A file and its tensors by name."""

    file: BinaryIO
    tensors: dict[str, Region]

    def grid_after(self, name: str) -> tuple[int, int, int, int, int] | None:
        """Return bits, columns, bytes of a scale, and the places of the scales and zeros behind codes."""
        regions = list(self.tensors.values())
        at = list(self.tensors).index(name)
        codes, *others = regions[at : at + 3]
        if len(others) < 2:  # noqa: PLR2004
            return None
        scales, zeros = others
        shapes = codes.shape, scales.shape, zeros.shape
        width = _WIDTHS.get(scales.form, 0)
        if {codes.form, zeros.form} != {"U8"} or not width:
            return None
        rows, *columns = codes.shape
        if shapes[1:] == ((*columns,), (*columns,)) and len(columns) == 1:
            return EIGHT_BITS, columns[0], width, scales.place, zeros.place
        if columns[1:] == [BLOCK // 2] and shapes[1:] == ((rows, columns[0]), (rows, (columns[0] + 1) // 2)):
            return FOUR_BITS, columns[0], width, scales.place, zeros.place
        return None

    def gaps(self) -> dict[str, tuple[int, int]]:
        """Return start and end of what lies before each tensor, by its name; before the end: ""."""
        found, place = {}, 0
        for name, region in self.tensors.items():
            found[name] = place, region.place
            place = region.place + region.length
        return {**found, "": (place, size(self.file))}


def plan_delta(base: BinaryIO, target: BinaryIO) -> list[Planned]:
    """Return the operations that make `target` of `base`, in the order in which they are carried out."""
    old, new = (_File(file, {region.name: region for region in regions(file)}) for file in (base, target))
    before, planned = old.gaps(), list[Planned]()
    for name, gap in new.gaps().items():
        across = before.get(name, (0, 0)) if gap[0] else next(iter(before.values()))
        planned += match_bytes(base, target, across, gap)
        if name:
            planned += _weights(old, new, name)
    last = [each for each in planned if each.operation.kind == GRID]
    return _joined([each for each in planned if each.operation.kind != GRID] + last)


def _weights(old: _File, new: _File, name: str) -> Iterator[Planned]:
    """Plan a tensor: what is as in the base, what follows from it, and what it has beyond."""
    region, known = new.tensors[name], old.tensors.get(name)
    common = 0
    if known is not None and known.form == region.form:
        kind, whole, arguments = _way(old, new, name)
        common = min(known.length, region.length) // whole * whole
        for start, end, same in _runs(old, new, name, common, whole):
            how = (COPY, ()) if same else (kind, arguments)
            yield Planned(Operation(how[0], end - start, known.place + start, how[1]), region.place + start)
    if common < region.length:
        how = (NEW_BLOCKS, _of_layout(region)) if region.form in NAMES else (NEW, ())
        yield Planned(Operation(how[0], region.length - common, 0, how[1]), region.place + common)


def _way(old: _File, new: _File, name: str) -> tuple[int, int, tuple[int, ...]]:
    """Return the operation for a tensor, the bytes in it that belong together, and its first arguments."""
    form = new.tensors[name].form
    if form in NAMES:
        return BLOCKS, LAYOUTS[form].nbytes, _of_layout(new.tensors[name])
    if form in _WIDTHS:
        return WORDS, _WIDTHS[form], (_WIDTHS[form],)
    grid = _grid(old, new, name)
    if grid is not None:
        return GRID, grid[1] * (BLOCK // 2 if grid[0] == FOUR_BITS else 1), grid
    return BYTES, 1, ()


def _of_layout(region: Region) -> tuple[int, ...]:
    return (NAMES.index(region.form),)


def _grid(old: _File, new: _File, name: str) -> tuple[int, ...] | None:
    """Return the first arguments of a GRID operation for a tensor of codes; None where it has no grid.

    An ONNX graph does not say which scales belong to which codes but by its nodes. `slmops quantize` writes
    codes, scales and zeros one after the other, and their shapes tell.
    """
    was, now = old.grid_after(name), new.grid_after(name)
    if was is None or now is None or was[:3] != now[:3]:
        return None
    return *now[:3], was[3], now[3], was[4], now[4]


def _runs(old: _File, new: _File, name: str, length: int, whole: int) -> Iterator[tuple[int, int, bool]]:
    """Yield start, end, and whether it is as it was, for a tensor's first `length` bytes."""
    step, start, run = max(ALIKE // whole, 1) * whole, 0, 0
    before, after = old.tensors[name].place, new.tensors[name].place
    same: bool | None = None
    for start in range(0, length, step):
        count = min(step, length - start)
        now = bool((read(old.file, before + start, count) == read(new.file, after + start, count)).all())
        if same is not None and now != same:
            yield run, start, same
            run = start
        same = now
    if same is not None:
        yield run, length, same


def _joined(planned: list[Planned]) -> list[Planned]:
    """Return the same with copies joined that follow each other in both files."""
    made = list[Planned]()
    for each in planned:
        if made and each.operation.kind == made[-1].operation.kind == COPY:
            last = made[-1].operation
            ends = last.base + last.length, made[-1].place + last.length
            if ends == (each.operation.base, each.place):
                made[-1] = Planned(last._replace(length=last.length + each.operation.length), made[-1].place)
                continue
        made.append(each)
    return made
