"""An export on the Hugging Face hub: only the files that the export wrote, and nothing of the run beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from vectoruniverse.errors import ConfigError, UserError
from vectoruniverse.export.folder import exported_files


class PushError(UserError):
    """The hub did not take the export; the folder is whole, and can be pushed again."""


def check_repository(repo: str, *, upload: bool) -> None:
    """Refuse before any work what the hub would refuse after it.

    Args:
        repo: ``user/name`` or ``organisation/name``.
        upload: whether a token will be needed.

    Raises:
        ConfigError: the name is none of a repository, or there is no token.
    """
    from huggingface_hub import get_token

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII):
        raise ConfigError(f"{repo!r} is no name of a repository", remedy="give user/name, as in me/my-clip")
    if upload and get_token() is None:
        raise ConfigError(
            "there is no token for the Hugging Face hub",
            remedy="log in with `hf auth login`, or set HF_TOKEN; --dry-run needs none",
        )


def push(folder: Path, repo: str) -> str:
    """Upload an export; a repository that is not there yet is made private.

    Returns:
        Address of the repository.

    Raises:
        PushError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # which HTTP client there is differs between versions; this is the base of all its errors
    client_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    api = HfApi(library_name="vectoruniverse")
    try:
        url = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=url.repo_id,
            allow_patterns=list(exported_files(folder)),
            commit_message=f"Export of {folder.name}",
        )
    except (OSError, ValueError, client_error) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PushError(
            f"the hub did not take it: {first}",
            remedy="check the connection and the token's right to write, then run the same command again",
        ) from error
    return str(url)
