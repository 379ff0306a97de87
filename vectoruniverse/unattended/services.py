"""Checks of what a run takes from elsewhere: its model, Weights & Biases, packages of extras."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections import defaultdict
from http import HTTPStatus
from pathlib import Path

from vectoruniverse.config.sections import Experiment
from vectoruniverse.errors import reason
from vectoruniverse.tracking.weights_and_biases import WandbSettings
from vectoruniverse.unattended.check import Asked, Check
from vectoruniverse.unattended.reach import status_of

SERVER_SECONDS = 3.0
"""How long a server may take to answer."""

_EXTRA = re.compile(r"""(?P<package>[\w.-]+).*;.*\bextra\s*==\s*["'](?P<extra>[\w-]+)["']""")


def model(asked: Asked) -> Check:
    """Whether the experiment's model is on this machine; without an experiment, which models are.

    Raises:
        ConfigError: the experiment names a folder that is no model's, or a package that is not installed.
    """
    experiment = asked.experiment
    if experiment is None:
        return Check("ok", _models_here())
    if not isinstance(experiment.model, str):
        return Check("ok", "built from scratch")
    name, folder = experiment.model, cached_folder(experiment)
    if folder is not None:
        return Check("ok", f"{name} in {folder}")
    from huggingface_hub.constants import HF_HUB_OFFLINE

    remedy = f"hf download {name}" + (f" --revision {experiment.revision}" if experiment.revision else "")
    if HF_HUB_OFFLINE:
        return Check("fix", f"{name} is not on this machine, and HF_HUB_OFFLINE is set", f"unset it, then {remedy}")
    return Check("warning", f"{name} is not on this machine: the run will begin by fetching it", remedy)


def _models_here() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    from vectoruniverse.models.source import BUILT_IN, PACKAGED

    packaged = [name for name, (module, _) in PACKAGED.items() if importlib.util.find_spec(module)]
    cached = [path.name.removeprefix("models--").replace("--", "/") for path in Path(HF_HUB_CACHE).glob("models--*")]
    return ", ".join([*BUILT_IN, *packaged, *sorted(cached)])


def cached_folder(experiment: Experiment) -> Path | None:
    """Where configuration and weights of the experiment's model are on this machine; None where they are not.

    Raises:
        ConfigError: it names a folder that is no model's, or a package that is not installed.
    """
    from huggingface_hub import try_to_load_from_cache

    from vectoruniverse.models.source import find_source
    from vectoruniverse.models.weights import INDEX, SINGLE

    if not isinstance(experiment.model, str):
        return None
    repository = find_source(experiment.model)
    if Path(repository).is_dir():
        return Path(repository)
    held = {
        file: found
        for file in ("config.json", SINGLE, INDEX)
        if isinstance(found := try_to_load_from_cache(repository, file, revision=experiment.revision), str)
    }
    return Path(held["config.json"]).parent if "config.json" in held and len(held) > 1 else None


def is_here(experiment: Experiment) -> bool:
    """Whether nothing of the experiment's model is to be fetched.

    Raises:
        ConfigError: as ``cached_folder``.
    """
    return not isinstance(experiment.model, str) or cached_folder(experiment) is not None


def wandb(asked: Asked) -> Check:
    """Which mode a run would be in, and whether its server answers; a key is never shown.

    Raises:
        ConfigError: Weights & Biases would refuse the run for the value of a variable.
    """
    from vectoruniverse.training.build import check_tracking

    if asked.experiment is not None:
        check_tracking(asked.experiment)
    mode = WandbSettings(mode=asked.experiment.wandb.mode if asked.experiment else "auto").effective_mode()
    if mode in ("disabled", "offline"):
        later = "; vu sync uploads a run later" if mode == "offline" else ""
        return Check("ok", f"{mode}, as is asked for{later}")
    try:
        has_key = _has_key()
    except Exception as error:  # wandb's own of its many kinds
        found = f"the key is none ({reason(error)}): a run would be written offline"
        return Check("fix", found, "wandb login --relogin, or mend WANDB_API_KEY")
    if not has_key:
        offline = "no key: a run is written offline, and vu sync uploads it later"
        return Check("warning" if mode == "online" else "ok", offline, "wandb login, or set WANDB_API_KEY")
    address = _address()
    trouble = _silence(address)
    if trouble is None:
        return Check("ok", f"online: a key, and {address} answers")
    found = f"a key, but {address} does not answer ({trouble}): a run would be written offline"
    return Check("warning", found, "see to the network or a proxy; vu sync uploads a run later")


def _has_key() -> bool:
    """Whether wandb finds a key where it looks for one; it raises where that cannot be one."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return bool(wandb.login(prompt=False, verify=False))


def _address() -> str:
    import wandb

    return str(wandb.setup().settings.base_url)


def _silence(address: str) -> str | None:
    """Why a server gives no answer within ``SERVER_SECONDS``; None where it does, be it that it knows no such page."""
    try:
        status = status_of(address, SERVER_SECONDS)
    except Exception as error:  # as status_of says
        return reason(error)
    # 407 and gateway errors are words of what stands between
    return f"status {status}" if status >= 500 or status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else None


def extras(asked: Asked) -> Check:
    """Which extras are installed as a whole, and which is not that the experiment needs."""
    needed: dict[str, list[str]] = defaultdict(list)
    for line in importlib.metadata.requires("vectoruniverse") or ():
        if (found := _EXTRA.match(line)) and found["extra"] != "test":
            needed[found["extra"]].append(found["package"])
    lacking = {extra for extra, packages in needed.items() if not all(map(_is_installed, packages))}
    here = ", ".join(extra for extra in needed if extra not in lacking) or "none"
    told = f"{here}; not installed: {', '.join(sorted(lacking))}" if lacking else here
    if asked.experiment is not None and asked.experiment.tensorboard and "tensorboard" in lacking:
        return Check("fix", told, "pip install 'vectoruniverse[tensorboard]', or set tensorboard: false")
    return Check("ok", told)


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
