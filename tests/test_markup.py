"""Cards: nothing active passes, in any spelling; ordinary Markdown does."""

import json

import pytest

from e2evit.hub.markup import MAX_CARD, check_card

ACTIVE = """
<script>alert(1)</script>
<svg onload=alert(1)>
<svg/onload=alert(1)>
<img src=x onerror="alert(1)">
<img src=x onerror=alert(1)//
<IMG SRC=x ONERROR=1>
<details ontoggle=alert(1) open>
<x onclick=alert(1)>
<scr<script>ipt>
<!--><img src=x onerror=alert(1)>-->
[a](javascript:alert(1))
[a](java&#115;cript:alert(1))
[a](&#x6a;avascript&colon;1)
[a]( javascript:alert(1))
[a](<java\tscript:1>)
[a](file:///etc/passwd)
![x](data:text/html;base64,AAAA)
[![p](data:x)](y)
<javascript:alert(1)>
<a href="vbscript:x">y</a>
<a href="java&#115;cript:alert(1)">x</a>
<a href="java\tscript:alert(1)">x</a>
<a href="javascript&colon;alert(1)">x</a>
<a href=" &#1;javascript:alert(1)">x</a>
<a href="jav&Tab;ascript:alert(1)">x</a>
<a href="jav&NewLine;ascript:alert(1)">x</a>
<a href=javascript:alert(1)>x</a>
<a href="data&colon;text/html,x">y</a>
<img src="data:image/svg+xml;base64,AAA">
<a ping="x">q</a>
<a href="javas\x00cript:alert(1)">x</a>
[a](\x01javascript:alert(1))
<b\x0b onclick=x>
<img srcset="x 1x">
<img src="x` `<script>" `>
<iframe src=https://x></iframe>
<frameset><frame src=x></frameset>
<object data=x>
<embed src=x>
<base href=x>
<template><script>
<meta http-equiv=refresh content=0>
<link rel=stylesheet href=x>
<form action=x><input></form>
<button formaction=x>
<style>*{x:y}</style>
<p style="background:url(x)">
<math><a xlink:href="javascript:1">x</a></math>
<video src=x onerror=1>
<textarea><img onerror=1></textarea>
"""


@pytest.mark.parametrize("markup", ACTIVE.strip("\n").split("\n"))
def test_active_cards(markup):
    front_matter = f"---\nnote: {json.dumps(markup)}\n---\nText"
    for text in (markup, f"# Title\n\nText {markup} text", f"> * {markup}", front_matter):
        with pytest.raises(ValueError, match=r"holds (active HTML|broken HTML|a control|an active address)"):
            check_card(text)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ("[x]\n\n[x]: javascript:alert(1)", "active HTML"),
        ("[x]\n\n[x]:\n  java&#115;cript:1", "active HTML"),
        ("<a\nhref='javascript:alert(1)'>x</a>", "active HTML"),
        ("---\nthumbnail: javascript:x\n---\n", "an active address"),
        ("---\nlicense_link: java&#115;cript:x\n---\n", "an active address"),
        ("---\nlicense_link: !!python/name:os.system\n---\n", "not plain YAML"),
        ("---\n- a\n---\n", "holds YAML that is a list"),
        ("---\na: " + "[" * 3000 + "\n---\n", "not plain YAML"),
        ("x" * (MAX_CARD + 1), "a card has at most"),
    ],
)
def test_cards_that_are_not_plain(card, reason):
    with pytest.raises(ValueError, match=reason):
        check_card(card)


PLAIN = [
    "`<script>`, a &lt;script&gt; b, a \\<script> b, a < b, |eta| < 1.37, x <= 3",
    "```html\n<script>x</script>\n```",
    "<https://x.org> <a@b.org> [x](y.md) [y](<c d.md>) ![x](figures/roc.png) [x](https://x?a=1&b=2 'title')",
    '<details><summary>x</summary>y</details> <img src="https://x/y.png" width="40" alt="a"> a<br/>b<sub>c</sub>',
    '| a | b |\n| ---: | :-- |\n| 1 | 2 |\n\n<div align="center">\n\n**x** <!-- y -->\n\n</div>',
    "ΔR 'q' \"r\" & é; text: javascript is a language",
    "---\ntags:\n- arxiv:2111.06377\nlicense: mit\n---\r\nText",
]


@pytest.mark.parametrize("card", PLAIN, ids=range(len(PLAIN)))
def test_plain_cards_pass(card):
    check_card(card)
