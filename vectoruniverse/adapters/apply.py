"""What is trained on a model: choose layers by name, put LoRA on them, open others, count it all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from vectoruniverse.adapters.families import attention_targets
from vectoruniverse.adapters.initialise import Initialisation
from vectoruniverse.adapters.lora import LoraAdapter, LoraLinear, lora_plus_groups, refuse_adapted
from vectoruniverse.adapters.patterns import check_patterns
from vectoruniverse.adapters.prefix_layers import Prefix
from vectoruniverse.adapters.targets import TowerTargets, resolve, suggest
from vectoruniverse.errors import ConfigError
from vectoruniverse.models.quantized import quantized_numbers

__all__ = [
    "LoraAdapter",
    "ParameterCount",
    "TowerTargets",
    "also_train",
    "attention_targets",
    "draws_dropout",
    "inject_lora",
    "lora_plus_groups",
    "parameter_table",
    "train_everything",
]


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one part of a model.

    Attributes:
        part: name of a direct child of the model, of a parameter of its own, or ``total``.
        adapted_layers: layers with LoRA on them.
        trainable: parameters that are trained.
        total: all parameters, the adapter's included.
    """

    part: str
    adapted_layers: int
    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trained share of the part's parameters, 0 to 1."""
        return self.trainable / self.total if self.total else 0.0


def inject_lora(
    model: nn.Module,
    targets: Sequence[TowerTargets],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    rank_stabilized: bool = False,
    seed: int = 0,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    dora: bool = False,
    initialisation: Initialisation = "kaiming",
) -> LoraAdapter:
    """Put LoRA on the named layers and freeze everything else.

    Load the model in the compute dtype first: a later ``model.to(dtype)`` would cast the fp32 adapter too.

    Args:
        model: the model, changed in place; ``LoraAdapter.remove`` undoes it.
        targets: layers by tower; a layer named twice is adapted once.
        rank: R of every layer that no pattern fits.
        alpha: numerator of the scale alpha / rank, of every layer that no pattern fits.
        dropout: probability of dropping an element of the input of lora_A, in [0, 1).
        rank_stabilized: scale = alpha / √rank in place of alpha / rank.
        seed: with the layer's path, the only source of the initial lora_A.
        rank_pattern: R by regular expression for the end of a path, as in peft; the first that fits decides.
        alpha_pattern: alpha likewise.
        dora: train the magnitude of every output too (arXiv:2402.09353).
        initialisation: ``kaiming``, or ``pissa``: the weight's principal directions (arXiv:2404.02948).

    Raises:
        ConfigError: a name matches nothing, or a module that is no linear layer; a pattern fits no layer; settings
            contradict each other. The model is as before.
        RuntimeError: the model already holds an adapter.
    """
    refuse_adapted(model)
    parts = resolve(model, targets)
    check_patterns(rank_pattern or {}, parts, key="adapter.rank_pattern")
    check_patterns(alpha_pattern or {}, parts, key="adapter.alpha_pattern")
    _refuse_with_dora(dora, parts, initialisation)
    return LoraAdapter(
        model,
        parts,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        rank_stabilized=rank_stabilized,
        seed=seed,
        parts=parts,
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        dora=dora,
        initialisation=initialisation,
    )


def train_everything(model: nn.Module) -> list[nn.Parameter]:
    """Full fine-tuning: every float parameter is trained, in fp32 so that small updates are not rounded away."""
    return _train(parameter for parameter in model.parameters() if parameter.is_floating_point())


def also_train(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    """Train named parameters, or all parameters of named modules, in full and in fp32, beside an adapter.

    Where the rest of the model is bf16 or fp16, run it under autocast from here on.

    Args:
        model: the model, after ``inject_lora``, which freezes what is not its own.
        names: paths such as ``logit_scale`` or ``visual_projection``.

    Raises:
        ConfigError: the model has no such parameter or module.
    """
    chosen: dict[str, nn.Parameter] = {}
    for name in names:
        found = {path: p for path, p in model.named_parameters() if path == name or path.startswith(f"{name}.")}
        if not found:
            raise ConfigError(f"the model has no parameters called {name!r}", remedy=suggest(name, _parts(model)))
        chosen |= found
    return _train(chosen.values())


def draws_dropout(part: nn.Module, config: object) -> bool:
    """Whether two passes of the same input differ while training: by the model's own dropout, or an adapter's.

    Args:
        part: the model or a tower of it, with whatever is on it.
        config: its configuration in transformers.
    """
    own = any(value for key, value in vars(config).items() if "dropout" in key and isinstance(value, float))
    modules = list(part.modules())
    lora = any(isinstance(module.dropout, nn.Dropout) for module in modules if isinstance(module, LoraLinear))
    return own or lora or any(module.dropout > 0 for module in modules if isinstance(module, Prefix))


def parameter_table(model: nn.Module, beside: Mapping[str, nn.Module] | None = None) -> list[ParameterCount]:
    """Count parameters, shared ones once, and each number of a quantised weight as one.

    They are told by direct child of the model and layer ``beside`` it, then by parameter of the model's own, then in
    total.
    """
    seen: set[nn.Parameter] = set()
    rows = [_count(name, part, seen) for name, part in (*model.named_children(), *(beside or {}).items())]
    for name, parameter in model.named_parameters(recurse=False):
        size = parameter.numel()
        rows.append(ParameterCount(name, 0, size if parameter.requires_grad else 0, size))
    rows = [row for row in rows if row.total]
    sums = (sum(row.adapted_layers for row in rows), sum(row.trainable for row in rows), sum(row.total for row in rows))
    return [*rows, ParameterCount("total", *sums)]


def _refuse_with_dora(dora: bool, parts: Mapping[str, tuple[str, ...]], initialisation: Initialisation) -> None:
    if dora and initialisation != "kaiming":
        raise ConfigError(f"DoRA cannot start from {initialisation}", key="adapter.dora", remedy="Take one of the two.")
    if dora and (split := [path for path, named in parts.items() if named]):
        remedy = f"Name the whole layer, {split[0].rpartition('.')[2]}."
        raise ConfigError(f"DoRA takes no parts of {split[0]}", key="adapter.dora", remedy=remedy)


def _parts(model: nn.Module) -> set[str]:
    own = {name for name, _ in model.named_parameters(recurse=False)}
    return own | {name for name, child in model.named_children() if any(True for _ in child.parameters())}


def _train(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    chosen = list(parameters)
    for parameter in chosen:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return chosen


def _count(name: str, part: nn.Module, seen: set[nn.Parameter]) -> ParameterCount:
    own = [parameter for parameter in part.parameters() if parameter not in seen]
    seen.update(own)
    trainable = sum(parameter.numel() for parameter in own if parameter.requires_grad)
    adapted = sum(isinstance(module, LoraLinear) for module in part.modules())
    return ParameterCount(
        name, adapted, trainable, sum(parameter.numel() for parameter in own) + quantized_numbers(part)
    )
