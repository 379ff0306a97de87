"""Any bytes, and sound input that was changed: read, or told as a mistake; what is written is read again."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.readers import READERS
from vectoruniverse.errors import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def fed(name: str, content: bytes) -> None:
    """Give bytes to a reader, which may refuse them."""
    with contextlib.suppress(UserError):
        READERS[name].read(content)


@st.composite
def changed(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Sound input of which a piece was replaced, cut off or put in."""
    sound = draw(st.sampled_from(seeds))
    start = draw(st.integers(0, len(sound)))
    end = draw(st.integers(start, min(len(sound), start + 40)))
    return sound[:start] + draw(st.binary(max_size=12)) + sound[end:]


@pytest.mark.parametrize("name", READERS)
def test_sound_input_is_read(name):
    for seed in READERS[name].seeds:
        try:
            READERS[name].read(seed)
        except UserError:
            assert name == "records", "each of these is a record of one kind"


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_changed_input_is_read_or_refused(name, data):
    fed(name, data.draw(changed(READERS[name].seeds)))


@pytest.mark.parametrize("name", READERS)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name, content):
    fed(name, content)


@pytest.mark.parametrize("name", ["yaml", "csv", "tsv", "cron"])
@given(text=st.text(max_size=120))
def test_any_text_is_read_or_refused(name, text):
    fed(name, text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", ["records", "adapter", "model", "metrics"])
@given(value=JSON, place=st.integers(0, 9))
def test_any_json_in_the_place_of_any_value_is_read_or_refused(name, value, place):
    try:
        sound = json.loads(READERS[name].seeds[place % len(READERS[name].seeds)])
    except json.JSONDecodeError:  # lines of records
        sound = {"step": 1, "seconds": 1.0}
    key = list(sound)[place % len(sound)]
    fed(name, json.dumps({**sound, key: value}).encode() + b"\n")


@given(values=st.dictionaries(st.from_regex(r"[a-z][a-z0-9_ :#-]{0,9}", fullmatch=True), JSON, max_size=4))
def test_yaml_that_is_written_is_read_again_equal(values):
    from vectoruniverse.config.strict_yaml import parse, write

    try:
        read = parse(write(values), "x.yaml").value
    except UserError:  # depth, control characters and large numbers, which no experiment holds
        return
    assert repr(read) == repr(values)
