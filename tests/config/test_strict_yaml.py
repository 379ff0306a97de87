"""The strict YAML reader: scalars of YAML 1.2, nothing clever, an error that tells the place."""

from __future__ import annotations

import math
import time

import pytest
import yaml

from vectoruniverse.config.strict_yaml import MAX_BYTES, parse, write
from vectoruniverse.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("7e-7", 7e-7),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("010", 10),
        ("+3", 3),
        ("0x1f", 31),
        ("0o17", 15),
        ("-9223372036854775807", -(2**63) + 1),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01 10:00:00", "2020-01-01 10:00:00"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("0,05", "0,05"),
        ("=", "="),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    read = parse(f"key: {text}\n", "f.yaml").value
    assert read == {"key": value}
    assert isinstance(read, dict)
    assert type(read["key"]) is type(value)


def test_nan_is_a_float() -> None:
    read = parse("[.nan, .NaN]", "f.yaml").value
    assert isinstance(read, list)
    assert all(math.isnan(value) for value in read)


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a", "second time in this section; first on line 1"),
        ("x:\n  y:\n    z: 1\n    z: 2\n", 4, "x.y.z", "first on line 3"),
        ("x:\n  y: &here 1\n", 2, "x.y", "anchor"),
        ("x:\n  - 1\n  - *here\n", 3, "x[1]", "alias"),
        ("x:\n  <<: {y: 1}\n", 2, "x", "merge keys"),
        ("x:\n  y: !!python/object/apply:os.system [echo]\n", 2, "x.y", "tag"),
        ("x: !local 1\n", 1, "x", "tag"),
        ("x: ! 1\n", 1, "x", "tag"),
        ("a: 1\n---\nb: 2\n", 2, None, "single document"),
        ("a: 1\n1: 2\n", 2, None, "the key 1 is not text"),
        ("a: 1\ntrue: 2\n", 2, None, "the key true is not text"),
        ("? [a]\n: 1\n", 1, None, "key must be text"),
        ('"": 1\n', 1, None, "1 to 200 characters"),
        ("a:\n  lr: [1\n  epochs: 3\n", 3, "a.lr", "expected ',' or ']'"),
        ("a:\n\tb: 1\n", 2, "a", "cannot start any token"),
        ("a: 1\nb: \x00\n", 2, None, "U+0000"),
        ('a:\n  b: "x\\0"\n', 2, "a.b", "control character U+0000"),
        ('a:\n  b: "\\e[31m"\n', 2, "a.b", "control character U+001B"),
        ('a: "\\uD800"\n', 1, "a", "control character U+D800"),
        ("a: 9223372036854775808\n", 1, "a", "more than 64 bits"),
        ("a: -" + "9" * 60_000, 1, "a", "more than 64 bits"),
    ],
)
def test_what_is_refused_names_line_and_key(text: str, line: int, key: str | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert (caught.value.file, caught.value.line, caught.value.key) == ("f.yaml", line, key)
    assert said in caught.value.message
    assert caught.value.remedy


def test_control_characters_of_a_tag_do_not_reach_the_terminal() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("a: !%1b[31m 1\n", "f.yaml")
    assert "\x1b" not in str(caught.value)


BILLION_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(BILLION_LAUGHS, id="billion laughs"),
        pytest.param(MERGE_BOMB, id="merge keys"),
        pytest.param("[" * 65_000, id="deep lists"),
        pytest.param("- " * 32_000, id="deep block lists"),
        pytest.param("{a: " * 16_000, id="deep mappings"),
        pytest.param("? " * 32_000, id="deep keys"),
        pytest.param("a: " + "x" * MAX_BYTES, id="too long"),
    ],
)
def test_bombs_are_refused_at_once(bomb: str) -> None:
    began = time.process_time()  # which a busy machine does not lengthen
    with pytest.raises(ConfigError):
        parse(bomb, "f.yaml")
    assert time.process_time() - began < 2.0


def test_lines_of_keys_and_items_are_kept() -> None:
    document = parse("# comment\na:\n  b: 1\n\n  c:\n    - x\n    - y\n", "f.yaml")
    assert document.lines == {("a",): 2, ("a", "b"): 3, ("a", "c"): 5, ("a", "c", 0): 6, ("a", "c", 1): 7}


AWKWARD: dict[str, object] = {
    "floats": [1e-05, 7e-07, 0.1 + 0.2, 1e16, 1e300, 5e-324, 1.0, -0.0],
    "ints": [0, -1, 2**62],
    "text": ["no", "1e-4", "1.0e-4", "010", "0o17", "1:30", "2020-01-01", "~", "", "null", "a: b", "x #y", "{title}"],
    "more": ["<<", "=", "- a", "[1]", "한국어", "🤖", "two\nlines", "it's", 'a "quote"', " padded ", "&a", "*a", "!t"],
    "others": [True, False, None, []],
    "sections": {"empty": {}, "of lists": {"Category": ["Skin Tone", "a, b"]}},
}


def test_what_is_written_reads_back_equal() -> None:
    text = write(AWKWARD)
    read = parse(text, "f.yaml").value
    assert read == AWKWARD
    assert repr(read) == repr(AWKWARD)


def test_what_is_written_means_the_same_to_a_yaml_1_1_reader() -> None:
    assert repr(yaml.safe_load(write(AWKWARD))) == repr(AWKWARD)


def test_equal_lists_are_written_out_and_not_aliased() -> None:
    shared = ["q_proj"]
    assert parse(write({"a": shared, "b": shared}), "f.yaml").value == {"a": shared, "b": shared}


def test_what_one_reader_changes_no_other_reads() -> None:
    first = parse("train: {lr: 1}\n", "one.yaml")
    assert isinstance(first.value, dict)
    first.value["train"]["lr"] = 2
    first.lines.clear()
    again = parse("train: {lr: 1}\n", "one.yaml")
    assert again.value == {"train": {"lr": 1}} and again.lines == {("train",): 1, ("train", "lr"): 1}
