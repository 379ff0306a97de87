"""What other libraries raise on somebody's files, said in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from vectoruniverse.errors import ConfigError, UserError

REMEDY = (
    "give tiny-clip, all-MiniLM-L6-v2, a Hugging Face name such as openai/clip-vit-base-patch32 or klue/bert-base "
    "(with a connection or a filled cache), or a folder with config.json, model.safetensors, a tokenizer and, for "
    "pictures, preprocessor_config.json"
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
