"""Untrusted text (names of files, classes and runs, settings) escaped for the medium that shows it.

Terminals interpret control characters, pages interpret tags, and directional characters disguise text. There is
one function for each medium, called where the text is written.
"""

import html
import re

_SHOWN = 200  # characters of a text in a message
# C0, DEL and C1; directional marks and overrides; line separators; lone surrogates.
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)
# scheme://user:password@host, as database addresses have it; the password may contain anything but spaces.
_PASSWORD = re.compile(r"(?P<head>\b[A-Za-z][\w+.-]*://[^\s:/@]*:)\S+(?=@)")
_IN_QUERY = re.compile(r"(?P<head>[?&;](?:password|passwd|pwd|sslpassword|token|api_?key)=)[^&;\s'\"]+", re.I)


def printable(text: object, longest: int = _SHOWN) -> str:
    """Escapes text for one line of a terminal.

    Args:
        text: Untrusted text.
        longest: Number of characters to keep.

    Returns:
        The text with control characters escaped as in Python.
    """
    shown = escape_controls(str(text))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def escape_controls(text: str) -> str:
    """Escapes control characters and lone surrogates; keeps the rest, at any length."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def for_markdown(text: object) -> str:
    """Escapes text for a line or table cell of Markdown, so that it adds no tags, links or columns.

    Args:
        text: Untrusted text.

    Returns:
        The text with entities and backslashes.
    """
    return re.sub(r"([\\`\[\]|])", r"\\\1", html.escape(escape_controls(str(text)), quote=False))


def for_html(text: object) -> str:
    """Escapes text for an HTML element or quoted attribute."""
    return html.escape(escape_controls(str(text)))


def without_passwords(text: object) -> str:
    """Masks passwords in URLs such as `postgresql://user:PASSWORD@host/base`.

    Args:
        text: A URL, or a message that contains some.

    Returns:
        The text with `***` instead of passwords.
    """
    hidden = _PASSWORD.sub(r"\g<head>***", str(text))
    return _IN_QUERY.sub(r"\g<head>***", hidden)
