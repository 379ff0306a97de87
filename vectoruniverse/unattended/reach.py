"""A look at an address that costs no more than the time it is given."""

from __future__ import annotations

import urllib.error
import urllib.request

from vectoruniverse.tracking.wandb_limits import within


def status_of(address: str, seconds: float) -> int:
    """The HTTP status that an address answers with.

    Args:
        address: beginning with ``http://`` or ``https://``.
        seconds: after which it counts as silent, look-up of its name and any proxy included.

    Raises:
        Exception: no answer; a resolver, a proxy or TLS may raise what they like.
    """
    if not address.startswith(("https://", "http://")):
        raise ValueError("no address of a server")
    answers: list[int] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(address, timeout=seconds) as answer:  # noqa: S310 - seen above
                answers.append(answer.status)
        except urllib.error.HTTPError as error:
            answers.append(error.code)
            error.close()

    within(seconds, ask)
    return answers[0]
