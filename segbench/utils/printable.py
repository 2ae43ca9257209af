"""Text from elsewhere (names of files, classes and runs, settings) made safe for where it is shown.

A terminal obeys ESC and its kin, a page obeys tags, and letters that turn the direction of writing make a line
say what it does not. One function for each place, called where the text is written.
"""

import html
import re

_SHOWN = 200  # letters of a text in a message
# C0, DEL and C1; marks and overrides of direction; separators of lines; halves of surrogate pairs.
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)
# scheme://user:password@host, as database addresses have it; the password may hold any sign but blanks.
_PASSWORD = re.compile(r"(?P<head>\b[A-Za-z][\w+.-]*://[^\s:/@]*:)\S+(?=@)")
_IN_QUERY = re.compile(r"(?P<head>[?&;](?:password|passwd|pwd|sslpassword|token|api_?key)=)[^&;\s'\"]+", re.I)


def printable(text: object, longest: int = _SHOWN) -> str:
    """Makes text one line that a terminal shows and does not obey.

    Args:
        text: Anybody's.
        longest: How many letters are kept.

    Returns:
        With control characters spelled out, as Python does.
    """
    shown = escape_controls(str(text))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def escape_controls(text: str) -> str:
    """Spells out what a terminal would obey or could not encode; the rest stays, at any length."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def for_markdown(text: object) -> str:
    """Makes text a piece of a line, or a table cell, of Markdown, without tags, links or columns of its own.

    Args:
        text: Anybody's.

    Returns:
        With entities and backslashes.
    """
    return re.sub(r"([\\`\[\]|])", r"\\\1", html.escape(escape_controls(str(text)), quote=False))


def for_html(text: object) -> str:
    """Makes text the content of an element or of a quoted attribute."""
    return html.escape(escape_controls(str(text)))


def without_passwords(text: object) -> str:
    """Takes passwords out of the addresses in a text, such as `postgresql://user:PASSWORD@host/base`.

    Args:
        text: An address, or a message that holds some.

    Returns:
        With `***` in their place.
    """
    hidden = _PASSWORD.sub(r"\g<head>***", str(text))
    return _IN_QUERY.sub(r"\g<head>***", hidden)
