"""What each structure of a model matters, and how those that stay make up for those that leave.

Pure: from the second moments of what flows into the matrices that read a structure. A structure matters by
its share in all that its readers say. The least-squares error of leaving it out, worked out anew after each
few that left, ranked no better than 3 to 8 % on trained models of 0.3 and 0.7 million parameters, and not
at all the channels of the stream; it takes the cube of the inputs many times over, so it is not done.

Laws: what is never read matters nothing; where all inputs stay, no number changes; what makes up for what
left is never worse over the text it was measured on than leaving it out alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

RIDGE = 1e-3
"""Of the mean square of an input: how much noise each is taken to have, so that no weight grows wild."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A matrix that reads a structure."""

    weight: torch.Tensor
    """[outputs, inputs]."""
    moment: torch.Tensor
    """Mean of the products of every two inputs over calibration text: [inputs, inputs]."""


def order_out(readers: Sequence[Reader], width: int = 1) -> tuple[int, ...]:
    """Return structures of `width` inputs each in the order in which they may leave, the least first."""
    shares = torch.stack([_shares(reader, width) for reader in readers]).sum(0)
    return tuple(shares.argsort(stable=True).tolist())


def made_up(weight: torch.Tensor, moment: torch.Tensor, kept: Sequence[int]) -> torch.Tensor:
    """Return the weights by which the inputs `kept` say best what all said: [outputs, kept]."""
    some = torch.as_tensor(kept)
    wide, square = moment[:, some].double(), moment[some][:, some].double()
    noise = RIDGE * float(square.diagonal().mean()) + 1e-12
    steady = square + noise * torch.eye(len(some), dtype=torch.float64)
    # The noise pulls towards the weights as they were, not towards none.
    target = weight.double() @ wide + noise * weight[:, some].double()
    return torch.linalg.solve(steady, target.T).T.to(weight.dtype)


def scale_of_norm(shares: torch.Tensor, kept: Sequence[int]) -> float:
    """Return by what a norm's weights are multiplied when only `kept` of its channels are left to measure.

    `shares` says which share of the square of the stream each channel has, on the mean: [channels].
    """
    share = float(shares[torch.as_tensor(kept)].sum())
    return math.sqrt(share * len(shares) / len(kept))


def _shares(reader: Reader, width: int) -> torch.Tensor:
    """Return which share of the square of what a matrix says each structure has a part in: [structures]."""
    count = reader.weight.shape[1] // width
    columns = reader.weight.reshape(-1, count, width).permute(1, 0, 2)
    blocks = reader.moment.reshape(count, width, count, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    said = ((columns @ blocks) * columns).sum((1, 2))
    return said / said.sum().clamp_min(1e-30)
