"""What a trained LoRA says about itself: the singular values of its updates, and its best approximation of lower rank.

Shapes: I input width, O output width, R rank, K rank after truncation, M = min(I, O, R) singular values. R counts what
the update is made of: the ranks of all adapted parts of a fused projection, twice the rank with PiSSA, I with DoRA.

The update scale · lora_B lora_A (O, I) is never formed. With the QR decompositions lora_B = Q_b R_b and
lora_Aᵀ = Q_a R_a it is Q_b (scale · R_b R_aᵀ) Q_aᵀ, and as the columns of both Q's are orthonormal, the SVD of the
R x R core in the middle gives the update's own singular values exactly: O((I + O) R²) in place of O(I O min(I, O)).
Everything is done in float64 on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from vectoruniverse.adapters.dora import DoraLinear
from vectoruniverse.adapters.linear_layers import weight_of
from vectoruniverse.adapters.lora import PEFT_PREFIX, LoraAdapter, LoraLinear
from vectoruniverse.errors import DivergedError
from vectoruniverse.models.shards import whole


@dataclass(frozen=True)
class TowerSpectrum:
    """The updates of all adapted layers of one tower.

    Attributes:
        layers: adapted layers.
        norm: Frobenius norm of all updates together, √(Σ σ²).
        effective_rank: mean of the layers' effective ranks, of those that the update changes; 0 where it changes none.
        smallest_effective_rank: of any such layer.
        largest_effective_rank: of any layer.
        energy: entry k-1 is the share, 0 to 1, of the squared norm that stays when each layer keeps its first k
            directions; one minus it is the relative squared error of ``truncate(adapter, k)``. All zero where the norm
            is.
    """

    layers: int
    norm: float
    effective_rank: float
    smallest_effective_rank: float
    largest_effective_rank: float
    energy: tuple[float, ...]


@dataclass(frozen=True)
class TruncatedLora:
    """An adapter of lower rank, ready for ``LoraAdapter.load_state_dict``.

    Attributes:
        rank: K; the adapter that loads it is made with this rank, without ``rank_stabilized``, ...
        alpha: ... and with this alpha, which makes its scale 1.
        state: lora_A (K, I) and lora_B (O, K) of each layer, fp32, under peft's keys.
    """

    rank: int
    alpha: float
    state: dict[str, Tensor]


INTRUDER_TOP, INTRUDER_COSINE = 10, 0.5
"""Of each adapted weight so many first directions are looked at; one whose cosine with every left singular vector of
the base weight is below the threshold is an intruder (arXiv:2410.21228, which looks at the first 10)."""


@dataclass(frozen=True)
class Intruders:
    """Intruder directions of one adapted weight W' = W + update, N of them: left u (O, N), σ (N,), right vᵀ (N, I)."""

    left: Tensor
    values: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.values)


@torch.no_grad()
def intruders(
    adapter: LoraAdapter, *, top: int = INTRUDER_TOP, threshold: float = INTRUDER_COSINE
) -> dict[str, Intruders]:
    """New top singular directions of each adapted weight that the base weight had not (arXiv:2410.21228).

    Two decompositions of each whole weight: about a second for a layer of width 1,024.

    Args:
        adapter: the adapter, not merged.
        top: how many first directions of W' are looked at.
        threshold: on the largest |cosine| with any left singular vector of W.

    Returns:
        By module path, every layer.
    """
    found = {}
    for path, layer in adapter.layers.items():
        with whole(adapter.model, layer):
            weight = weight_of(layer.base).to("cpu", torch.float64)
        u, sigma, vh = torch.linalg.svd(weight + layer.delta_weight().to("cpu", torch.float64), full_matrices=False)
        known = torch.linalg.svd(weight, full_matrices=False)[0]
        nearest = (known.T @ u[:, :top]).abs().amax(dim=0)
        new = torch.nonzero((nearest < threshold) & (sigma[:top] > 0)).flatten()
        found[path] = Intruders(u[:, new], sigma[new], vh[new])
    return found


@contextlib.contextmanager
def without_intruders(adapter: LoraAdapter, found: Mapping[str, Intruders]) -> Iterator[None]:
    """The adapted model without these directions, σ = 0: what they make of a layer's input is taken off its output."""

    def less(directions: Intruders) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        scaled = directions.left * directions.values  # (O, N)

        def take_off(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            (x,) = inputs
            return output - linear(linear(x, directions.right.to(x)), scaled.to(x)).to(output.dtype)

        return take_off

    with contextlib.ExitStack() as hooks:
        for path, directions in found.items():
            if len(directions):
                hooks.callback(adapter.layers[path].register_forward_hook(less(directions)).remove)
        yield


def singular_values(adapter: LoraAdapter) -> dict[str, Tensor]:
    """Singular values of what the adapter adds to each weight now, ``set_scale`` included.

    Args:
        adapter: the adapter, merged or not.

    Returns:
        (M,) float64 by module path, descending; the update's other min(I, O) - M singular values are 0.

    Raises:
        DivergedError: lora_A or lora_B of a layer is not finite.
    """
    return {path: torch.linalg.svdvals(_core(path, layer)[1]) for path, layer in adapter.layers.items()}


def effective_rank(values: Tensor) -> float:
    """Number of directions in use: exp of the entropy of the shares σ² / Σ σ², from 1 to M; 0 where all are zero.

    Roy & Vetterli (2007) take the shares of σ; here σ² is taken, the shares of the squared Frobenius norm.

    Args:
        values: singular values (M,).
    """
    squared = values.double().square()
    if not bool(squared.any()):
        return 0.0
    return float(torch.special.entr(squared / squared.sum()).sum().exp())


def energy(values: Tensor) -> Tensor:
    """Share of Σ σ² that the first k directions hold, for k = 1 … M: rises to 1, or all zero where all values are.

    Args:
        values: singular values (M,), descending.

    Returns:
        (M,) float64.
    """
    held = values.double().square().cumsum(dim=0)
    return held / held[-1] if bool(held[-1] > 0) else held


def tower_spectra(values: Mapping[str, Tensor], towers: Sequence[str]) -> dict[str, TowerSpectrum]:
    """Sum up the layers of each tower.

    Args:
        values: singular values by module path, from ``singular_values``.
        towers: module paths such as ``vision_model``; empty is the whole model.

    Returns:
        By tower; a tower without adapted layers is left out.
    """
    by_tower = {tower: [v for path, v in values.items() if is_within(path, tower)] for tower in towers}
    return {tower: _tower_spectrum(layers) for tower, layers in by_tower.items() if layers}


def truncate(adapter: LoraAdapter, rank: int) -> TruncatedLora:
    """The nearest adapter of a lower rank: each update keeps its first K directions.

    No other update of rank K is nearer to the layer's in the Frobenius or spectral norm (Eckart & Young, 1936; Mirsky,
    1960). With the SVD U Σ Vᵀ of the scaled update, lora_B = U √Σ and lora_A = √Σ Vᵀ, so that both factors weigh the
    same whatever the balance of the trained ones was. At or above the trained rank the update is the same, and the
    factors are filled up with zeros.

    Args:
        adapter: the adapter, merged or not; not changed.
        rank: K, at least 1.

    Raises:
        DivergedError: lora_A or lora_B of a layer is not finite.
    """
    assert rank >= 1, f"rank {rank} is below 1"
    state: dict[str, Tensor] = {}
    for path, layer in adapter.layers.items():
        lora_a, lora_b = _truncated_factors(path, layer, rank)
        state |= {f"{PEFT_PREFIX}{path}.lora_A.weight": lora_a, f"{PEFT_PREFIX}{path}.lora_B.weight": lora_b}
    return TruncatedLora(rank=rank, alpha=float(rank), state=state)


@torch.no_grad()
def _core(path: str, layer: LoraLinear) -> tuple[Tensor, Tensor, Tensor]:
    """Q_b (O, min(O, R)), the core R_b R_aᵀ (min(O, R), min(I, R)) and Q_a (I, min(I, R))."""
    lora_a, lora_b = (factor.to("cpu", torch.float64) for factor in _factors(layer))
    if not bool(torch.isfinite(lora_a).all() and torch.isfinite(lora_b).all()):
        raise DivergedError(f"the update of {path} is not finite", remedy="take an earlier checkpoint")
    q_b, r_b = torch.linalg.qr(lora_b)
    q_a, r_a = torch.linalg.qr(lora_a.T)
    return q_b, r_b @ r_a.T, q_a


def _factors(layer: LoraLinear) -> tuple[Tensor, Tensor]:
    """A (R, I) and B (O, R) whose product is what the layer adds to the weight; DoRA's has full rank, R = I."""
    if isinstance(layer, DoraLinear):
        delta = layer.delta_weight()
        return torch.eye(layer.in_features), delta
    lora_a, lora_b = layer.factors()
    return lora_a, lora_b.double() * (layer.scale * layer.factor)


def _truncated_factors(path: str, layer: LoraLinear, rank: int) -> tuple[Tensor, Tensor]:
    """lora_A (K, I) and lora_B (O, K), fp32."""
    q_b, core, q_a = _core(path, layer)
    u, sigma, vh = torch.linalg.svd(core, full_matrices=False)
    root = sigma[:rank].sqrt()
    lora_b, lora_a = (q_b @ u[:, :rank]) * root, (q_a @ vh[:rank].T) * root
    missing = rank - len(root)
    return pad(lora_a, (0, missing)).T.float().contiguous(), pad(lora_b, (0, missing)).float()


def _tower_spectrum(layers: Sequence[Tensor]) -> TowerSpectrum:
    ranks = [rank for values in layers if (rank := effective_rank(values)) > 0] or [0.0]
    most = max(len(values) for values in layers)
    # The root of the sum of squares over the layers is a spectrum whose energy is that of all layers together.
    pooled = torch.stack([pad(values, (0, most - len(values))) for values in layers]).square().sum(dim=0).sqrt()
    return TowerSpectrum(
        layers=len(layers),
        norm=float(pooled.norm()),
        effective_rank=sum(ranks) / len(ranks),
        smallest_effective_rank=min(ranks),
        largest_effective_rank=max(ranks),
        energy=tuple(energy(pooled).tolist()),
    )


def is_within(path: str, tower: str) -> bool:
    """Whether a module path lies in a tower; the empty tower is the whole model."""
    return not tower or path == tower or path.startswith(f"{tower}.")
