"""What a card may show: Markdown whose HTML a sanitiser leaves as it is."""

import html
import re

import nh3
import yaml
from markdown_it import MarkdownIt

from e2evit.data.texts import parse_yaml

__all__ = ["check_card", "read_yaml", "strings_of"]

MAX_CARD = 64 * 1024  # characters; ours have 7 000
SCHEMES = {"http", "https", "mailto"}
ATTRIBUTES = nh3.ALLOWED_ATTRIBUTES | {"code": {"class"}, "div": {"align"}, "p": {"align"}}
ACTIVE_ADDRESS = re.compile(r"(?:data|javascript|vbscript):", re.I)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_TAG = re.compile(r"<([a-zA-Z][^\t\n\f\r />]*)")  # whatever a browser may take for a tag
_BROKEN_TAG = re.compile(r"<[a-zA-Z/!?]\S{0,39}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}(?=:)", re.I)
_ALIGNED = re.compile(r' style="text-align:(?:left|right|center)"')  # of our own renderer's tables
_renderer = MarkdownIt("commonmark", {"html": True}).enable("table").disable("text_join")
_renderer.validateLink = lambda url: True  # the sanitiser judges addresses,
_renderer.normalizeLink = str  # as they are


def check_card(text: str) -> list[str]:
    """Refuse a card that is more than text, links and pictures once it is rendered, or whose front matter is not YAML.

    Returns:
        What it says after entities and YAML's escapes are undone.

    Raises:
        ValueError: with the first line that a sanitiser would change.
    """
    if len(text) > MAX_CARD:
        raise ValueError(f"has {len(text)} characters; a card has at most {MAX_CARD}.")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    said = [html.unescape(text)]
    if match := _FRONT_MATTER.match(text):
        for value in (fields := strings_of(read_yaml(match[1], dict))):
            address = re.sub(r"[\x00-\x20]", "", html.unescape(value))
            if ACTIVE_ADDRESS.match(address):
                raise ValueError(f"holds an active address ({value[:80]!r}) in its front matter.")
            _check_markdown(value)
        said += fields
    _check_markdown(text[match.end() :] if match else text)
    return said


def read_yaml(text: str, kind: type):
    """Plain YAML of one kind; tags of Python objects are refused, and aliases that grow.

    Raises:
        ValueError: for anything else.
    """
    try:
        content = parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"is not plain YAML ({reason}).") from None
    if not isinstance(content, kind):
        raise ValueError(f"holds YAML that is a {type(content).__name__}, not a {kind.__name__}.")
    return content


def strings_of(content) -> list[str]:
    """Every string of nested lists and mappings, keys included, each object once."""
    strings, seen, waiting = [], set(), [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            waiting += [*value, *value.values()] if isinstance(value, dict) else value
    return strings


def _check_markdown(text: str) -> None:
    if match := _CONTROL.search(text):
        raise ValueError(f"holds a control character ({match[0]!r}).")
    tokens = _renderer.parse(text)
    for part in (part for token in tokens for part in token.children or []):
        # what is text here may be a tag to a renderer that is less strict: `<svg/onload=...>`
        if part.type == "text" and (match := _BROKEN_TAG.search(part.content)):
            raise ValueError(f"holds broken HTML ({match[0]!r}); write `&lt;` for a literal `<`.")
        part.type = "text" if part.type == "text_special" else part.type
    _check_html(_ALIGNED.sub("", _renderer.renderer.render(tokens, _renderer.options, {})))


def _check_html(text: str) -> None:
    if unknown := sorted({name.lower() for name in _TAG.findall(text)} - nh3.ALLOWED_TAGS):
        raise ValueError(f"holds active HTML ('<{unknown[0][:40]}>'); a card is Markdown and pictures.")
    # every scheme that could be in it, as a browser reads it: entities replaced, tabs and line breaks left out
    schemes = {name.lower() for name in _SCHEME.findall(re.sub(r"[\t\n]", "", html.unescape(text)))}
    clean = nh3.clean(text, attributes=ATTRIBUTES, url_schemes=SCHEMES, link_rel=None)
    whole = nh3.clean(text, attributes={}, generic_attribute_prefixes={""}, url_schemes=schemes, link_rel=None)
    if clean != whole:
        line = next((ours for ours, theirs in zip(whole.splitlines(), clean.splitlines()) if ours != theirs), whole)
        raise ValueError(f"holds active HTML ({line[:80]!r}); a card is Markdown and pictures.")
