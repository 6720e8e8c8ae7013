"""Hooks of MkDocs."""

import re


def on_page_content(html: str, **_) -> str:
    """Docstrings refer to names as [`name`], as transformers does; the brackets go."""
    return re.sub(r"\[(<code>[^<]*</code>)\]", r"\1", html)
