"""One interface for whatever is trained on a model: attach, save, load, scale, remove."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vectoruniverse.adapters.lora import LoraAdapter
from vectoruniverse.adapters.targets import TowerTargets
from vectoruniverse.config.sections import AdapterSettings
from vectoruniverse.errors import ConfigError


@dataclass(frozen=True)
class Host:
    """A model, and what its task lets an adapter do to it.

    Attributes:
        model: the model in transformers; module paths are relative to it, and adapters are saved for it.
        whole: the model with the layers around it that full fine-tuning trains too.
        name: name or folder that ``adapter_config.json`` gives for the base model.
        revision: branch, tag or commit of it.
        save: writes ``whole`` with its tokenizer into a folder, for plain transformers to load.
        load: tensors of ``whole`` by name, from a folder that ``save`` wrote.
        targets: the layers that LoRA goes on.
        tower: module path of the transformer that takes a prefix; empty is the whole model.
        beside: parameters of ``model`` or ``added`` that are trained in full beside an adapter.
        frozen: parameters of ``model`` that full fine-tuning leaves as they are.
        added: fp32 parameters that a loss may ask for and ``model`` lacks; no library's format has a place for them.
    """

    model: nn.Module
    whole: nn.Module
    name: str
    revision: str | None
    save: Callable[[Path], None]
    load: Callable[[Path], Mapping[str, Tensor]]
    targets: Callable[[], Sequence[TowerTargets]] = tuple
    tower: str = ""
    beside: Sequence[str] = ()
    frozen: Sequence[str] = ()
    added: Mapping[str, nn.Parameter] = field(default_factory=dict)

    def parameters(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        """Parameters of ``model`` and ``added`` by name; those that neither has are left out."""
        every = (*self.model.named_parameters(), *self.added.items())
        return {name: found for name, found in every if name in names}


class Adapter(ABC):
    """What is trained on one model. ``remove`` makes the model its base again, bit for bit.

    Attributes:
        host: the model it is on.
        low_rank: the LoRA layers; None where there are none.
    """

    library: ClassVar[str] = "peft"
    """The library that reads what ``save`` writes."""

    mergeable: ClassVar[bool] = True
    """Whether plain weights can compute what the adapted model does; else there is no way to the base either."""

    low_rank: LoraAdapter | None = None

    def __init__(self, host: Host, written: Iterable[nn.Parameter]) -> None:
        """Remember the host as it is, before anything is put on it; ``written`` are trained in place."""
        self.host = host
        self._before = BaseWeights(host.whole, written)
        self._path: list[tuple[nn.Parameter, Tensor, Tensor]] | None = None

    @classmethod
    @abstractmethod
    def attach(cls, host: Host, config: AdapterSettings, seed: int, part: str = "") -> Self:
        """Put a new adapter on a model and freeze what is not trained.

        Args:
            host: the model; as before where an error is raised.
            config: the experiment's ``adapter`` section.
            seed: decides where what is new starts.
            part: which of several models this is; ``init_from`` may hold a folder for each.

        Raises:
            ConfigError: the settings do not fit the model.
        """

    @classmethod
    @abstractmethod
    def load(cls, host: Host, folder: Path) -> Self:
        """Put on what ``save`` wrote.

        Raises:
            ConfigError: it was made for another base model.
            DataError: a file is missing or damaged.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what is trained, so that ``load`` and ``library`` read it."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What is trained, as in ``LoRA of rank 8``."""

    def remove(self) -> None:
        """Make the model its base again: the same tensors in the same memory. Twice is once."""
        self._path = None
        self._before.restore()

    def set_scale(self, scale: float) -> None:
        """Go to a point on the way from the base (0) to the adapted model (1).

        A low-rank update is multiplied; what was trained in place is interpolated, as WiSE-FT does (arXiv:2109.01903).
        The first call takes the model as it is then for the adapted one.
        """
        if self._path is None:
            self._path = [(now, before, now.detach().clone()) for now, before in self._before.changed()]
        if self.low_rank is not None:
            self.low_rank.set_scale(scale)
        for parameter, before, after in self._path:
            parameter.data.copy_(torch.lerp(before.to(after), after, scale))

    def blend(self, scale: float) -> None:
        """Make the model at a scale of the way from the base the adapted one, for good: ``save`` writes it."""
        self.set_scale(scale)
        self._path = None
        if self.low_rank is not None:
            self.low_rank.rescale(scale)

    def merge(self) -> None:
        """Leave a plain model with the update in its weights and no layer of ours, for good; where ``mergeable``."""
        assert self.mergeable, self.words

    def _freeze_around(self) -> None:
        """Freeze the layers around the model, which putting an adapter on it has frozen already."""
        own = set(self.host.model.parameters())
        for parameter in self.host.whole.parameters():
            if parameter not in own:
                parameter.requires_grad_(False)


class BaseWeights:
    """A model as it was loaded, so that one loading serves many trainings.

    Parameters that training writes to are copied to the CPU. Values come back bit for bit, into the memory that they
    came from.
    """

    def __init__(self, model: nn.Module, written: Iterable[nn.Parameter]) -> None:
        """Remember the model, and a copy of the parameters that are ``written`` to."""
        self._model, self._training = model, model.training
        # a second reference to .data, since opening a half-precision parameter gives it a new float32 tensor
        written = list(written)
        every = dict.fromkeys([*model.parameters(), *written])
        self._before = [(one, one.data, one.requires_grad) for one in every]
        self._copies = [(one, one.data, one.detach().cpu().clone()) for one in written]

    def changed(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The written parameters that are not what they were, each with what it was."""
        return [(one, copy) for one, _, copy in self._copies if not torch.equal(one.data.cpu().to(copy.dtype), copy)]

    def restore(self) -> None:
        """Put back whatever was trained in place."""
        for parameter, data, trainable in self._before:
            parameter.data, parameter.grad = data, None
            parameter.requires_grad_(trainable)
        for _, data, copy in self._copies:
            data.copy_(copy)
        self._model.train(self._training)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Copy tensors into a model of the same parameters and buffers, in its own formats.

    Raises:
        ConfigError: a name or a shape is another; nothing is changed then.
    """
    own = model.state_dict()
    strange = sorted(own.keys() ^ tensors.keys()) or [n for n, one in own.items() if one.shape != tensors[n].shape]
    if strange:
        remedy = "Load the base model that it was trained from."
        raise ConfigError(f"was made for another base model: {strange[0]} does not fit", file=folder, remedy=remedy)
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)
