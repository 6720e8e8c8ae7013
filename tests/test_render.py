"""Pages and cards hold the tables rendered from results."""

import re
from pathlib import Path

import pytest
import render
from forked import run_python

ROOT = Path(__file__).parents[1]


def test_pages_are_rendered_from_results():
    rendered = render.pages()
    assert [str(path) for path, text in rendered.items() if path.read_text() != text] == [], "run studies/render.py"
    named = {name for path in rendered for name in render.START.findall(path.read_text())}
    assert named == set(render.TABLES), "each table stands on a page"


def test_figures_of_pages_exist():
    for path in (ROOT / "docs").rglob("*.md"):
        figures = re.findall(r"!\[[^]]*\]\(([^):]+)\)", path.read_text())
        assert [name for name in figures if not (path.parent / name).is_file()] == []


def test_a_page_gets_its_tables():
    page = "# A\n<!-- a b: rendered by studies/render.py -->\nold\n<!-- end of a b -->\nend\n"
    tables = {"a b": lambda results: f"| {results} |"}
    expected = "# A\n<!-- a b: rendered by studies/render.py -->\n| folder |\n<!-- end of a b -->\nend\n"
    assert render.render_page(page, tables, "folder") == expected
    assert render.render_page(expected, tables, "folder") == expected
    with pytest.raises(ValueError, match="no table 'a b'; known ones: other"):
        render.render_page(page, {"other": tables["a b"]}, "folder")
    with pytest.raises(ValueError, match="'a b' has no line `<!-- end of a b -->`"):
        render.render_page(page.replace("end of", "end"), tables, "folder")


def test_help_and_check_write_nothing():
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
    for option, expected in (("--help", "--check"), ("--check", "")):
        done = run_python("studies/render.py", option)
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
