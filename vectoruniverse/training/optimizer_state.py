"""The state of an optimizer by parameter name: tensors and JSON, so that it can be saved without pickle.

torch numbers parameters by their place; a name still fits when the order of groups or modules changes, and a
checkpoint of something else is refused instead of being applied to the wrong weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vectoruniverse.errors import ConfigError, DataError
from vectoruniverse.runs.files import Record, check_record

# how the update is computed, not what: belongs to the device at hand, so the resumed process keeps its own
_IMPLEMENTATION = frozenset({"params", "foreach", "fused", "capturable", "differentiable"})
_REMEDY = "resume with the configuration that the run was started with"


class OptimizerGroup(Record):
    """A group of an optimizer: names of its parameters, and its settings."""

    parameters: list[str]
    settings: dict[str, Any]


class OptimizerState(Record):
    """An optimizer but for its tensors."""

    kind: str = Field(alias="class")
    groups: list[OptimizerGroup]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take apart the state of an optimizer, such as AdamW, whose state per parameter is tensors (moments, step).

    Args:
        optimizer: the optimizer.
        names: one name for each parameter, in the order of the optimizer's groups.

    Returns:
        Tensors under ``<state>:<parameter>`` such as ``exp_avg:encoder.weight``, and the groups' settings as JSON.
    """
    assert len(set(names)) == len(names) == len(_parameters(optimizer)), names
    state = optimizer.state_dict()
    tensors = {
        f"{key}:{names[index]}": value for index, values in state["state"].items() for key, value in values.items()
    }
    groups = [
        OptimizerGroup(parameters=[names[index] for index in group["params"]], settings=_settings(group))
        for group in state["param_groups"]
    ]
    facts = OptimizerState.model_validate({"class": type(optimizer).__name__, "groups": groups})
    return tensors, facts.model_dump(by_alias=True)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Put back what ``optimizer_tensors`` took: the next updates equal those of an uninterrupted training, bit for bit.

    Raises:
        ConfigError: the state belongs to another class of optimizer or other parameters, groups or shapes.
        DataError: a tensor of the state belongs to no parameter, or the state is not what was saved.
    """
    assert len(set(names)) == len(names) == len(_parameters(optimizer)), names
    facts = check_record(state, OptimizerState, file=None, remedy=_REMEDY)
    if facts.kind != type(optimizer).__name__:
        raise ConfigError(f"the checkpoint holds {facts.kind}, not {type(optimizer).__name__}", remedy=_REMEDY)
    current = optimizer.state_dict()
    _check_groups([[names[index] for index in group["params"]] for group in current["param_groups"]], facts.groups)
    for group, saved in zip(current["param_groups"], facts.groups, strict=True):
        _check_settings(_settings(group), saved.settings)
        group.update({key: tuple(one) if isinstance(one, list) else one for key, one in saved.settings.items()})
    optimizer.load_state_dict({"state": _by_index(optimizer, names, tensors), "param_groups": current["param_groups"]})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in _IMPLEMENTATION}


def _check_settings(current: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse settings that are missing, unknown, or of another kind than the optimizer's own."""
    if differing := sorted(current.keys() ^ saved.keys()):
        raise DataError(f"the checkpoint's optimizer settings differ in {differing[0]}", remedy=_REMEDY)
    for key, value in saved.items():
        if _shape(value) != _shape(current[key]) and None not in (value, current[key]):
            raise DataError(f"the checkpoint's optimizer setting {key} cannot be {value!r}", remedy=_REMEDY)


def _shape(value: object) -> object:
    """What kind of JSON a setting is; whole and other numbers are one kind."""
    if isinstance(value, list | tuple):
        return [_shape(one) for one in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _check_groups(current: list[list[str]], saved: list[OptimizerGroup]) -> None:
    """Refuse unless every group holds the parameters it held; their order within the group is free."""
    if [set(group) for group in current] == [set(group.parameters) for group in saved]:
        return
    ours = {name for group in current for name in group}
    theirs = {name for group in saved for name in group.parameters}
    if differing := sorted(ours ^ theirs):
        where = "only the checkpoint has" if differing[0] in theirs else "the checkpoint lacks"
        raise ConfigError(f"{len(differing)} trained parameters differ: {where} {differing[0]}", remedy=_REMEDY)
    raise ConfigError("the checkpoint's optimizer groups hold other parameters", remedy=_REMEDY)


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
    kinds = {frozenset(state) for state in by_index.values()}
    if len(kinds) > 1:
        missing = sorted(frozenset.union(*kinds) - frozenset.intersection(*kinds))
        raise DataError(f"the checkpoint lacks {missing[0]} of some parameters", remedy=_REMEDY)
    return by_index


def optimizer_names(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> list[str]:
    """Names of the optimizer's parameters, in its own order."""
    names = {id(parameter): name for name, parameter in trained.items()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
