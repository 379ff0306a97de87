"""Documents of running text, cut into sentences, for pre-training.

They come from a column of a table (such as ``review`` in the IMDB file), from a text file whose documents are parted by
blank lines, or from a folder of ``.txt`` files, one document each. A document of one sentence serves masked language
modelling; next-sentence prediction needs two.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Unpack

from vectoruniverse.data.findings import Finding, Rows
from vectoruniverse.data.normalise import caseless
from vectoruniverse.data.splits import Shares, Split, divide
from vectoruniverse.data.text_file import MAX_BYTES, read_text_file, refuse_unreadable
from vectoruniverse.data.text_table import is_blank, numbered, read_text_table
from vectoruniverse.errors import ConfigError, DataError

LONGEST = 2_000
"""A sentence of more characters is cut between words: text without full stops must not become one endless sentence."""

_TABLES = {".csv", ".tsv"}
_BREAK = re.compile(r"<br\s{0,9}/?>", re.IGNORECASE)
_WIDE_END = re.compile(r"([。！？]+[」』”’）]*)")  # Chinese and Japanese put no space after a sentence
_CLOSERS, _OPENERS = "\"')]}*_”’»」』）", "\"'([{*_“‘«「『（"
_ENDS = (".", "!", "?", "…", "。", "！", "？")
_ABBREVIATIONS = {"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "e.g.", "i.e.", "cf.", "fig.", "vol.", "approx."}
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")  # J. or U.S.


@dataclass(frozen=True, slots=True)
class Document:
    """A document.

    Attributes:
        id: unique; digest of the sentences, with ``#2``, ``#3``, ... where the same document occurs again.
        name: file, below the folder where there is one, and the line where it begins: ``reviews.csv:12``.
        sentences: at least one; none is empty, white space within is single spaces.
        split: ``train``, ``val`` or ``test``; None where no column was asked for.
    """

    id: str
    name: str
    sentences: tuple[str, ...]
    split: str | None = None


Corpus = Rows[Document]


class _Text(NamedTuple):
    """The text of a document, and where it is from."""

    file: str
    line: int
    text: str
    split: str | None = None


def read_corpus(
    source: Path,
    *,
    column: str | None = None,
    split_column: str | None = None,
    max_bad_share: float = 0.01,
    max_bytes: int = MAX_BYTES,
    keys: tuple[str, str] = ("data.file", "data.text"),
    encoding: str = "utf-8",
) -> Corpus:
    """Read documents from a table (``.csv``, ``.tsv``), any other text file, or a folder of ``.txt`` files.

    ``<br />`` is read as a line break. Links within a folder are followed where they stay inside it.

    Args:
        source: file or folder.
        column: the column of a table; for other sources None.
        split_column: that of a table which says ``train``, ``val`` or ``test``, as for ``read_text_table``.
        max_bad_share: largest acceptable share of rows or files that hold no text.
        max_bytes: refuse a source with more bytes.
        keys: config keys of source and column, for messages.
        encoding: of the table or the text files.

    Raises:
        ConfigError: a table needs a column and another source has none.
        DataError: the source is missing, too large, not in its encoding, or holds no text.
    """
    is_table = source.suffix.lower() in _TABLES and not source.is_dir()
    if (column is not None) != is_table:
        what = "a table is read by one of its columns" if is_table else f"{source.name} is no table and has no columns"
        remedy = f"Name the column in {keys[1]}." if is_table else f"Leave {keys[1]} out."
        raise ConfigError(what, key=keys[1], remedy=remedy)
    if split_column is not None and not is_table:
        message, key = f"{source.name} is no table and has no columns", "data.split.column"
        raise ConfigError(message, key=key, remedy=f"Leave {key} out, and let documents be drawn.")
    found = Corpus(source, [], [])
    if source.is_dir():
        _collect(_folder(found, max_bytes, encoding), found)
    else:
        file = refuse_unreadable(source, key=keys[0], max_bytes=max_bytes)
        if column is not None:
            table = read_text_table(
                file,
                texts={"text": column},
                split_column=split_column,
                max_bad_share=max_bad_share,
                keys={"file": keys[0], "text": keys[1], "split": "data.split.column"},
                encoding=encoding,
            )
            found = Corpus(source, [], table.bad, table.doubts)
            _collect((_Text(source.name, row.line, row.texts["text"], row.split) for row in table.rows), found)
        else:
            _collect(_paragraphs(source.name, read_text_file(file, encoding)), found)
    found.refuse_bad(max_bad_share)
    if not found.rows:
        raise DataError("holds no text", file=source, key=keys[0], remedy="Name a file or folder with documents.")
    return found


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences by a simple rule, the same for every language.

    A sentence ends with a blank line, and with a word that ends in ``. ! ? …`` (closing quotes and brackets aside)
    where the next word does not begin with a small letter, or the text has no capital letters at all. It does not end
    with ``e.g.``, ``Dr.`` and the like, with initials (``J.``, ``U.S.``), nor with the number of a list item (``1.``).
    ``。！？`` need no space after them. What exceeds ``LONGEST`` characters is cut between words,
    or within a word that is itself longer.
    """
    text = _WIDE_END.sub(r"\1 ", _BREAK.sub("\n", text))
    lowered = text == text.lower()
    paragraph: list[str] = []
    sentences: list[str] = []
    for line in (*text.splitlines(), ""):
        words = line.split()
        if paragraph and not words:
            sentences += _sentences(paragraph, lowered=lowered)
            paragraph = []
        paragraph += words
    return [sentence for sentence in sentences if not is_blank(sentence)]


def divide_corpus(corpus: Corpus, **shares: Unpack[Shares]) -> Split:
    """Training, validation and test documents: as a column says, else equal ones lie in one part; arguments as for
    ``split_rows``.

    Raises:
        DataError: there are fewer documents than parts.
    """
    return divide(
        [document.id for document in corpus.rows],
        [document.split for document in corpus.rows],
        group_documents(corpus),
        **shares,
        file=corpus.file,
        remedy="Use more documents: rows of a table, files of a folder, or parts of a file with a blank line between.",
    )


def group_documents(corpus: Corpus) -> list[str]:
    """Name the group of each document; equal ones are one, also where they differ in case, spacing or Unicode form."""
    same = [caseless(" ".join(document.sentences)) for document in corpus.rows]
    first: dict[str, str] = {}  # the least id of equal documents names their group
    for text, name in sorted((text, document.id) for text, document in zip(same, corpus.rows, strict=True)):
        first.setdefault(text, name.partition("#")[0])
    return [first[text] for text in same]


def fingerprint_corpus(corpus: Corpus, split: Split) -> str:
    """sha256 over every document and over the split: equal data, equal number."""
    return split.fingerprint(lambda side, i: "\n".join((side, corpus.rows[i].id, *corpus.rows[i].sentences, "\0")))


def _sentences(words: list[str], *, lowered: bool) -> Iterator[str]:
    sentence: list[str] = []
    length = 0
    for word, following in zip(words, [*words[1:], ""], strict=True):
        for part in (word[i : i + LONGEST] for i in range(0, len(word), LONGEST)):
            if sentence and length + len(part) > LONGEST:
                yield " ".join(sentence)
                sentence, length = [], 0
            sentence.append(part)
            length += len(part) + 1
        if _ends(word, "" if lowered else following, first=len(sentence) == 1):
            yield " ".join(sentence)
            sentence, length = [], 0
    if sentence:
        yield " ".join(sentence)


def _ends(word: str, following: str, *, first: bool) -> bool:
    bare = word.rstrip(_CLOSERS)
    if not bare.endswith(_ENDS) or following.lstrip(_OPENERS)[:1].islower():
        return False
    bare = bare.lstrip(_OPENERS)
    numbered = first and bare[:-1].isdecimal()
    return not (numbered or bare.lower() in _ABBREVIATIONS or _INITIALS.fullmatch(bare))


def _collect(texts: Iterable[_Text], found: Corpus) -> None:
    seen: Counter[str] = Counter()
    for file, line, text, split in texts:
        if sentences := tuple(split_sentences(text)):
            digest = hashlib.sha256("\n".join(sentences).encode()).hexdigest()[:16]
            found.rows.append(Document(numbered(digest, seen), f"{file}:{line}", sentences, split))
        else:
            found.bad.append(Finding("unusable_row", "holds no text", str(found.file), line, file))


def _paragraphs(name: str, text: str) -> Iterator[_Text]:
    """Documents of a text file, which blank lines part, named after the line where they begin."""
    document: list[str] = []
    begin = 1
    for number, line in enumerate((*_lines(text), ""), start=1):
        if line.strip():
            begin = begin if document else number
            document.append(line)
        elif document:
            yield _Text(name, begin, "\n".join(document))
            document = []


def _folder(found: Corpus, max_bytes: int, encoding: str) -> Iterator[_Text]:
    folder, root = found.file, os.path.realpath(found.file)
    left = max_bytes
    for path in sorted(_text_files(folder)):
        name = path.relative_to(folder).as_posix()
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(root) or not real.is_file():
            reason = "is no regular file inside the folder"
            found.bad.append(Finding("unusable_row", reason, str(folder), 1, name))
            continue
        if (left := left - real.stat().st_size) < 0:
            raise DataError(f"the files hold more than {max_bytes:,} bytes", file=folder, remedy="Use a part of them.")
        yield _Text(name, 1, "\n".join(_lines(read_text_file(path, encoding))))


def _text_files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(".txt") and not name.startswith("."):
                yield Path(parent, name)


def _lines(text: str) -> list[str]:
    """Lines without their ends, whichever of the three they are; no other character ends a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
