"""The ways to train a model, by their names in ``adapter.method``: LoRA, prefix tuning, full fine-tuning.

Beside LoRA, modules trained in full are peft's ``modules_to_save``; what peft's format has no place for (parameters of
the model itself, such as a logit scale, and all that is trained beside a prefix) is in a file of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vectoruniverse.adapters.apply import also_train, inject_lora, train_everything
from vectoruniverse.adapters.base import Adapter, Host, fill
from vectoruniverse.adapters.lora import LoraAdapter, check_tensor
from vectoruniverse.adapters.peft_format import load_lora, save_lora
from vectoruniverse.adapters.prefix import PrefixAdapter, inject_prefix
from vectoruniverse.adapters.prefix_format import load_prefix, save_prefix
from vectoruniverse.config.sections import AdapterSettings
from vectoruniverse.errors import DataError, UserError
from vectoruniverse.models.quantized import dequantize

BESIDE_FILE = "logit_scalars.safetensors"
"""What was trained beside an adapter and has no place in peft's format."""


class Lora(Adapter):
    """Low-rank updates beside frozen linear layers (see ``lora.LoraAdapter``)."""

    low_rank: LoraAdapter

    @classmethod
    def attach(cls, host: Host, config: AdapterSettings, seed: int, part: str = "") -> Self:
        """Put LoRA on the host's targets: a new one, or the saved one that ``init_from`` names."""
        adapter = cls(host, host.parameters(host.beside).values())
        if config.init_from is None:
            adapter.low_rank = inject_lora(
                host.model,
                host.targets(),
                rank=config.rank,
                alpha=config.alpha if config.alpha is not None else float(config.rank),
                dropout=config.dropout,
                rank_stabilized=config.rank_stabilized,
                seed=seed,
                rank_pattern=config.rank_pattern,
                alpha_pattern=config.alpha_pattern,
                dora=config.dora,
                initialisation=config.initialisation,
            )
        else:
            host.model.requires_grad_(False)
            folder = Path(config.init_from).expanduser()
            adapter._read(folder / part if (folder / part).is_dir() else folder)
        adapter._freeze_around()
        _open_beside(host)
        return adapter

    @classmethod
    def load(cls, host: Host, folder: Path) -> Self:
        """Put on LoRA from a folder in peft's format."""
        adapter = cls(host, host.parameters(host.beside).values())
        adapter._read(folder)
        return adapter

    def _read(self, folder: Path) -> None:
        own = [name for name, _ in self.host.model.named_parameters(recurse=False)]
        beside = read_beside(folder / BESIDE_FILE, self.host.parameters({*own, *self.host.added}))
        self.low_rank = load_lora(self.host.model, folder)
        self.low_rank.overwrite({name: value for name, value in beside.items() if name in own})
        _fill(self.host, beside, self.host.added)

    def save(self, folder: Path) -> None:
        """Write peft's two files, and parameters of the model itself beside them."""
        host = self.host
        modules = dict.fromkeys(name.rpartition(".")[0] for name in host.beside if "." in name)
        extra = {path: host.model.get_submodule(path) for path in modules}
        save_lora(self.low_rank, folder, base_model=host.name, revision=host.revision, extra=extra)
        own = [name for name in (*host.beside, *self.low_rank.overwritten) if "." not in name]
        write_beside(folder / BESIDE_FILE, host.parameters(own))

    @property
    def words(self) -> str:
        """LoRA and its rank, which ``init_from`` may have brought."""
        return f"LoRA of rank {self.low_rank.rank}"

    def remove(self) -> None:
        """Take the layers off."""
        self.low_rank.remove()
        super().remove()

    def merge(self) -> None:
        """Add the update to the weights; quantised ones become plain, of the numbers that they stood for."""
        self.low_rank.merge()
        for path, layer in self.low_rank.layers.items():
            self.host.model.set_submodule(path, layer.base)
        dequantize(self.host.model)


class PrefixTuning(Adapter):
    """Learned keys and values before those of every layer of one tower (see ``prefix.PrefixAdapter``)."""

    mergeable = False
    prefix: PrefixAdapter

    @classmethod
    def attach(cls, host: Host, config: AdapterSettings, seed: int, part: str = "") -> Self:
        """Put a new prefix on the host's tower."""
        del part
        adapter = cls(host, host.parameters(host.beside).values())
        adapter.prefix = inject_prefix(
            host.model,
            host.tower,
            length=config.prefix_length,
            projection=config.prefix_projection,
            dropout=config.dropout,
            seed=seed,
        )
        adapter._freeze_around()
        _open_beside(host)
        return adapter

    @classmethod
    def load(cls, host: Host, folder: Path) -> Self:
        """Put on a prefix from a folder in peft's format."""
        adapter = cls(host, host.parameters(host.beside).values())
        beside = read_beside(folder / BESIDE_FILE, host.parameters({*host.beside, *host.added}))
        adapter.prefix = load_prefix(host.model, host.tower, folder)
        _fill(host, beside, beside)
        return adapter

    def save(self, folder: Path) -> None:
        """Write peft's two files, and what was trained beside the prefix."""
        save_prefix(self.prefix, folder, base_model=self.host.name, revision=self.host.revision)
        write_beside(folder / BESIDE_FILE, self.host.parameters(self.host.beside))

    @property
    def words(self) -> str:
        """Prefix and its length."""
        return f"prefix of {self.prefix.length}"

    def remove(self) -> None:
        """Take the prefix off."""
        self.prefix.remove()
        super().remove()

    def set_scale(self, scale: float) -> None:
        """Not for a prefix: keys and values that are there are attended to."""
        raise AssertionError("a prefix has no scale")


class FullFineTuning(Adapter):
    """Every parameter is trained, in fp32."""

    library = "transformers"

    @classmethod
    def attach(cls, host: Host, config: AdapterSettings, seed: int, part: str = "") -> Self:
        """Open every parameter but the host's frozen ones, and what a loss asks for beside them."""
        del config, seed, part
        return cls._opened(host)

    @classmethod
    def _opened(cls, host: Host) -> Self:
        adapter = cls(host, [*host.whole.parameters(), *host.parameters(host.beside).values()])
        train_everything(host.whole)
        _open_beside(host)
        for parameter in host.parameters(host.frozen).values():
            parameter.requires_grad_(False)
        return adapter

    @classmethod
    def load(cls, host: Host, folder: Path) -> Self:
        """Give the model the weights of a saved one."""
        tensors = host.load(folder)
        beside = read_beside(folder / BESIDE_FILE, host.parameters({*host.beside, *host.added}))
        adapter = cls._opened(host)
        fill(host.whole, tensors, folder)
        _fill(host, beside, beside)
        return adapter

    def save(self, folder: Path) -> None:
        """Write a model that plain transformers loads, and what was trained beside it."""
        self.host.save(folder)
        write_beside(folder / BESIDE_FILE, self.host.parameters(self.host.beside))

    @property
    def words(self) -> str:
        """Everything."""
        return "everything"


METHODS: dict[str, type[Adapter]] = {"lora": Lora, "prefix": PrefixTuning, "full": FullFineTuning}
"""``adapter.method`` → what it stands for."""


def put_on(host: Host, config: AdapterSettings, seed: int, *, part: str = "", trained: Path | None = None) -> Adapter:
    """What the experiment's ``adapter`` section asks for: a new one, or the ``trained`` one of a folder."""
    method = METHODS[config.method]
    return method.attach(host, config, seed, part) if trained is None else method.load(host, trained)


def lora_layers(adapters: Collection[Adapter]) -> list[LoraAdapter]:
    """The LoRA layers among what is trained on the parts of a model."""
    return [adapter.low_rank for adapter in adapters if adapter.low_rank is not None]


def _open_beside(host: Host) -> None:
    """Train what the host names beside an adapter."""
    also_train(host.model, [name for name in host.beside if name not in host.added])
    for name in host.added.keys() & set(host.beside):
        host.added[name].requires_grad_(True)


def _fill(host: Host, tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Copy saved values into those parameters of these names that are trained beside an adapter."""
    with torch.no_grad():
        for name, parameter in host.parameters(set(names) & set(host.beside)).items():
            if name in tensors:
                parameter.copy_(tensors[name])


def write_beside(file: Path, parameters: Mapping[str, Tensor]) -> None:
    """Save what was trained beside an adapter, by name; no file where there is nothing."""
    tensors = {name: one.detach().cpu() for name, one in parameters.items()}
    if tensors:
        save_file(tensors, file)


def read_beside(file: Path, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was saved beside an adapter, fit for the ``live`` parameters of the same names; none without the file.

    Raises:
        DataError: the file is damaged, or holds others.
    """
    if not file.exists():
        return {}
    remedy = "Take an intact copy of the adapter."
    try:
        beside: dict[str, Tensor] = load_file(file)
        for name, value in beside.items():
            if name not in live:
                raise DataError(f"holds {name}, which was not trained beside this adapter", file=file, remedy=remedy)
            check_tensor(name, value, live[name].shape)
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot be read: {error}", file=file, remedy=remedy) from error
    except UserError as error:
        raise DataError(error.message, file=file, remedy=error.remedy) from error
    return beside
