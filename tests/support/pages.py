# SPDX-License-Identifier: MIT
"""The project's pages, taken apart for tests."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[a-z]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    language: str
    mark: str
    """"executed", "guest" (both are run by tests), or ""."""
    text: str

    def commands(self) -> Iterator[list[str]]:
        """The words of each cvm-harness command in a shell block."""
        words: list[str] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = [*words, line]
            try:  # a quotation may go over several lines
                found = shlex.split("\n".join(words), comments=True)
            except ValueError:
                continue
            words = []
            while "cvm-harness" in found[:1]:
                end = next((n for n, word in enumerate(found) if word in ("&&", "|", ">")), None)
                yield found[1:end]
                found = found[end + 1 :] if end is not None else []


def blocks(language: str = "sh", mark: str | None = None) -> list[Block]:
    """All blocks of `language` in all pages, with `mark` if one is given."""
    found = []
    for page in PAGES:
        for match in _BLOCK.finditer(page.read_text()):
            name = str(page.relative_to(ROOT))
            found.append(Block(name, match["language"], match["mark"] or "", match["text"]))
    return [b for b in found if b.language == language and mark in (None, b.mark)]
