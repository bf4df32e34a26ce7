"""What bitq says when a user's input is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST_VALUE, LONGEST_WORD, LONGEST_MESSAGE = 60, 200, 1200
"""Characters of what others wrote, as a name out of a file, that a sentence repeats: where it is known to be that, in a
long word of which nothing is known, and in all."""

MOST_NAMED = 4
"""Of things that a sentence names, how many it does by their names."""

_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD},}}")


def printable(text: str) -> str:
    """Text of others as a terminal may be given it: what is not printable, as an escape code, stands as "\\x1b".

    Ends of lines and tabs stay.
    """
    kept = text.isprintable() or all(character.isprintable() or character in "\n\t" for character in text)
    if kept:
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = LONGEST_VALUE) -> str:
    """Text of at most `most` characters, what is between its begin and its end left out."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 1]}…{text[len(text) - end :]}"


def some_of(texts: Sequence[str], between: str = ", ", more: str = " and {} more") -> str:
    """The first of some texts, at most `MOST_NAMED`, and how many more there are."""
    left = len(texts) - MOST_NAMED
    return between.join(texts[:MOST_NAMED]) + (more.format(left) if left > 0 else "")


class BitqError(ValueError):
    """A mistake in what the user gave, told in one sentence: what, where, and what would be right.

    The command line prints it without a traceback and exits with code 2. A message is fit to print whatever names of
    others it repeats: one line, nothing that a terminal would obey, of bounded length.
    """

    def __init__(self, message: str = "") -> None:
        line = " ".join(printable(str(message)).split())
        super().__init__(shortened(_LONG_WORD.sub(_shortened, line), LONGEST_MESSAGE))


class Infeasible(BitqError):  # noqa: N818 - it is read as the answer to a question
    """Nothing keeps what was asked for: no tiling fits a memory, or no plan keeps the budgets.

    Says what the least is that could be kept. Raised only where this is certain: a solver that fails, or any other
    mistake, is never told so.
    """


def _shortened(word: re.Match[str]) -> str:
    return shortened(word[0], LONGEST_WORD)
