# SPDX-License-Identifier: MIT
"""Guest bytes made fit to show: a guest must not steer the terminal that its words end up on."""


def printable(data: bytes) -> str:
    r"""`data` as one line of text; bad UTF-8 and what is not printable become \x or \u escapes."""
    text = data.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else _escape(c) for c in text)


def inert(text: str) -> str:
    r"""The same for text that has been decoded already, lone surrogates included."""
    return printable(text.encode("utf-8", "backslashreplace"))


def _escape(c: str) -> str:
    return f"\\x{ord(c):02x}" if c.isascii() else c.encode("ascii", "backslashreplace").decode()
