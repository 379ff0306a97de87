"""The text of a file, whole: decoded strictly, or the reason why not with the line and the encodings that would fit."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from vectoruniverse.data.findings import FaultError
from vectoruniverse.data.locate import on_disk
from vectoruniverse.errors import ConfigError

MAX_BYTES = 1 << 30
"""Larger files are refused: a table is held in memory several times over while it is read."""

_SAMPLE = 1 << 20  # bytes that are looked at for likely encodings
_LIKELY = {  # encoding → the characters that its texts use beside ASCII
    "cp949": "가-힣",
    "cp932": "ぁ-ヿ一-龥　-〕",
    "gb18030": "一-龥　-〕！-～",
    "cp1251": "А-яЁё",
    "cp1252": "À-ÖØ-öø-ÿ‘’“”–—…€",
}


def refuse_unreadable(file: Path, *, key: str, max_bytes: int = MAX_BYTES) -> Path:
    """Stop where there is no regular file, or one too large to be held in memory; else the file as the disk spells it.

    Raises:
        FaultError: names the file and the config key.
    """
    found = on_disk(file)
    if not found.is_file():
        said = "is no regular file" if found.exists() else "there is no such file"
        raise FaultError(said, kind="no_file", file=file, key=key, remedy=f"Check {key}.")
    if (size := found.stat().st_size) > max_bytes:
        message = f"holds {size:,} bytes, more than {max_bytes:,}"
        raise FaultError(message, kind="unreadable_table", file=file, key=key, remedy="Use a part of it.")
    return found


def read_text_file(file: Path, encoding: str = "utf-8", *, key: str = "data.encoding") -> str:
    """The text without its byte order mark; line ends are as they are.

    Args:
        file: a regular file.
        encoding: a name that Python knows, such as ``cp949`` or ``utf-16``.
        key: config key or option of the encoding, for messages.

    Raises:
        ConfigError: there is no such encoding.
        FaultError: the file cannot be read or decoded, or holds NUL.
    """
    try:
        wide = "a".encode(encoding) != b"a"
        b"a".decode(encoding, "ignore")  # host names (idna) are no text, and cannot be read so
    except (LookupError, ValueError):
        message, remedy = f"there is no encoding {encoding[:40]!r}", "Name one as in utf-8, cp949, utf-16 or latin-1."
        raise ConfigError(message, key=key, remedy=remedy) from None
    try:
        data = file.read_bytes()
    except OSError as error:
        message, remedy = f"cannot be read: {error.strerror}", "Check its permissions."
        raise FaultError(message, kind="unreadable_table", file=file, remedy=remedy) from error
    if not wide and (nul := data.find(b"\0")) >= 0:
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise FaultError(
            "holds a NUL byte" + ("; its first bytes mark it as UTF-16" if utf16 else ""),
            kind="unreadable_table",
            file=file,
            line=_line_of(data[:nul].decode("latin-1")),
            remedy=f"Set {key} to utf-16." if utf16 else "Save it as UTF-8 text.",
        )
    try:
        content = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        raise _undecodable(file, data, encoding, key, getattr(error, "start", 0)) from None
    if (nul := content.find("\0")) >= 0:
        message, line = "holds a NUL character", _line_of(content[:nul])
        raise FaultError(message, kind="unreadable_table", file=file, line=line, remedy=f"Check {key}.")
    return content


def _undecodable(file: Path, data: bytes, encoding: str, key: str, start: int) -> FaultError:
    likely = _likely(data, start)
    reads = f"; it reads as {' or '.join(f'{name} ({sample!r})' for name, sample in likely.items())}" if likely else ""
    called = "UTF-8" if codecs.lookup(encoding).name == "utf-8" else encoding
    choice = f"Set {key} to {next(iter(likely))} if that is its text, or" if likely else f"Set {key}, or"
    return FaultError(
        f"is not {called} here{reads}",
        kind="not_utf8",
        file=file,
        line=_line_of(data[:start].decode(encoding, "ignore")),
        remedy=f"{choice} save it as UTF-8.",
    )


def _likely(data: bytes, start: int) -> dict[str, str]:
    """Encodings in which the bytes make sense, the likeliest first, each with a few of their first other characters."""
    fits: dict[str, tuple[float, str]] = {}
    begin = data.rfind(b"\n", 0, start) + 1
    for name, usual in {"utf-8": "\x80-\U0010ffff", **_LIKELY}.items():
        try:
            text = codecs.getincrementaldecoder(name)().decode(data[begin : begin + _SAMPLE])
        except UnicodeError:
            continue
        other = re.findall(r"[^\x00-\x7f]+", text)
        count = sum(map(len, other))
        share = len(re.findall(f"[{usual}]", "".join(other))) / count if count else 0.0
        if share > 0.8:
            fits[name] = share, other[0][:12]
    best = sorted(fits, key=lambda name: -fits[name][0])[:3]
    return {name: fits[name][1] for name in best}


def _line_of(before: str) -> int:
    """Number of the line that comes after this text without its last line end, 1-based."""
    return before.count("\n") + before.count("\r") - before.count("\r\n") + 1
