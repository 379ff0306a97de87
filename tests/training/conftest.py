"""What several tests of training look at."""

from __future__ import annotations

import pytest

from vectoruniverse.training import packed_weights as module


@pytest.fixture
def products(monkeypatch):
    """How often a packed weight was multiplied with."""
    seen = []
    multiply = module._multiply

    def counted(*operands):
        seen.append(operands[0].shape)
        return multiply(*operands)

    monkeypatch.setattr(module, "_multiply", counted)
    return seen
