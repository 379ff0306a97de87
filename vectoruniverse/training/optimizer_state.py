"""The state of an optimizer by parameter name: tensors and JSON, so that it can be saved without pickle.

torch numbers parameters by their place; a name still fits when the order of groups or modules changes, and a
checkpoint of something else is refused instead of being applied to the wrong weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vectoruniverse.errors import ConfigError, DataError

# how the update is computed, not what: belongs to the device at hand, so the resumed process keeps its own
_IMPLEMENTATION = frozenset({"params", "foreach", "fused", "capturable", "differentiable"})
_REMEDY = "resume with the configuration that the run was started with"


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take an optimizer's state apart.

    Args:
        optimizer: such as AdamW, whose state per parameter is tensors (moments, step).
        names: one name for each parameter, in the order of the optimizer's groups.

    Returns:
        Tensors under ``<state>:<parameter>`` such as ``exp_avg:encoder.weight``, and the groups' settings as JSON.
    """
    state = optimizer.state_dict()
    _check_names(optimizer, names)
    tensors = {
        f"{key}:{names[index]}": value for index, values in state["state"].items() for key, value in values.items()
    }
    groups = [
        {
            "parameters": [names[index] for index in group["params"]],
            "settings": {key: value for key, value in group.items() if key not in _IMPLEMENTATION},
        }
        for group in state["param_groups"]
    ]
    return tensors, {"class": type(optimizer).__name__, "groups": groups}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Put back what ``optimizer_tensors`` took: the next updates equal those of an uninterrupted training, bit for bit.

    Args:
        optimizer: a fresh one over the same parameters.
        names: one name for each parameter, in the order of the optimizer's groups.
        tensors: as returned by ``optimizer_tensors``.
        state: as returned by ``optimizer_tensors``.

    Raises:
        ConfigError: the state belongs to another class of optimizer or other parameters, groups or shapes.
        DataError: a tensor of the state belongs to no parameter.
    """
    _check_names(optimizer, names)
    if state["class"] != type(optimizer).__name__:
        raise ConfigError(f"the checkpoint holds {state['class']}, not {type(optimizer).__name__}", remedy=_REMEDY)
    current = optimizer.state_dict()
    _check_groups([[names[index] for index in group["params"]] for group in current["param_groups"]], state["groups"])
    for group, saved in zip(current["param_groups"], state["groups"], strict=True):
        group.update({key: _as_before(value, group.get(key)) for key, value in saved["settings"].items()})
    optimizer.load_state_dict({"state": _by_index(optimizer, names, tensors), "param_groups": current["param_groups"]})


def _check_names(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> None:
    assert len(set(names)) == len(names) == len(_parameters(optimizer)), names


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _check_groups(current: list[list[str]], saved: list[dict[str, Any]]) -> None:
    """Refuse unless every group holds the parameters it held; their order within the group is free."""
    if [set(group) for group in current] == [set(group["parameters"]) for group in saved]:
        return
    ours = {name for group in current for name in group}
    theirs = {name for group in saved for name in group["parameters"]}
    if differing := sorted(ours ^ theirs):
        where = "only the checkpoint has" if differing[0] in theirs else "the checkpoint lacks"
        raise ConfigError(f"{len(differing)} trained parameters differ: {where} {differing[0]}", remedy=_REMEDY)
    raise ConfigError("the checkpoint's optimizer groups hold other parameters", remedy=_REMEDY)


def _as_before(value: object, current: object) -> object:
    return tuple(value) if isinstance(current, tuple) and isinstance(value, list) else value


def _by_index(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]
) -> dict[int, dict[str, Tensor]]:
    index_of = {name: index for index, name in enumerate(names)}
    parameters = _parameters(optimizer)
    by_index: dict[int, dict[str, Tensor]] = {}
    for label, tensor in tensors.items():
        key, _, name = label.partition(":")
        if name not in index_of:
            raise DataError(f"optimizer state {label!r} belongs to no parameter", remedy=_REMEDY)
        parameter = parameters[index_of[name]]
        if tensor.ndim and tensor.shape != parameter.shape:  # a step is a single number
            shapes = f"{tuple(tensor.shape)} in the checkpoint, {tuple(parameter.shape)} here"
            raise ConfigError(f"the shape of {name} differs: {shapes}", remedy=_REMEDY)
        # load_state_dict moves without copying where it can; the optimizer would then write into the caller's tensors
        by_index.setdefault(index_of[name], {})[key] = tensor.clone()
    return by_index
