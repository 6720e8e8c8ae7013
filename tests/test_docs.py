"""The site is true: its Python runs, its shell commands parse, the files it names exist."""

import re
import shlex
from pathlib import Path

import pytest
from forked import LIBRARIES, run_python

from e2evit.cli import run
from e2evit.cli.command import COMMANDS
from e2evit.data.columns import LISTS, PARTICLE_COLUMNS
from e2evit.data.schema import SCHEMAS, row_features
from e2evit.training.checkpoint import read_model_config

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
# the others need data or minutes; the notebooks cover them
RUN = ("first-jet", "embeddings", "plot", "speed", "trainer", "peft")


@pytest.mark.parametrize("page", RUN)
def test_python_runs(page, tmp_path):
    """Run all blocks of a page in order, from a folder that looks like the repository."""
    for name in ("checkpoints", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    done = run_python("-c", "\n".join(blocks), cwd=tmp_path, preloaded=LIBRARIES)
    assert blocks
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_python_compiles(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, page.name, "exec")


def test_model_configurations_have_known_fields(tmp_path):
    blocks = [block for page in PAGES for block in re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)]
    models = [block for block in blocks if '"model_type"' in block]
    assert models
    for block in models:
        (tmp_path / "model.json").write_text(block)
        read_model_config(tmp_path / "model.json")


def test_snippets_are_markers():
    """`ruff format` would break them inside a block that it takes for Python."""
    snippets = {}
    for page in PAGES:
        if named := re.findall(r'^--8<-- "(.+)"$', page.read_text(), re.MULTILINE):
            snippets[page.stem] = named
        assert len(re.findall(r"--\s*8\s*<", page.read_text())) == len(named), page.name
    assert snippets["architecture"] == ["docs/own_model.py"]
    assert all((ROOT / name).is_file() for names in snippets.values() for name in names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_exist(page):
    text = page.read_text()
    named = re.findall(r"\b(?:scripts|studies|benchmarks|recipes|tests|src|notebooks|modeling)/[\w/.]+\.\w+", text)
    named += [f"modeling/{name}" for name in re.findall(r"(?<!/)\bmodeling_\w+\.py", text)]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_column_is_described():
    (schema,) = SCHEMAS["simulated"]
    columns = {*row_features(schema), *PARTICLE_COLUMNS}.union(*LISTS.values())
    text = (ROOT / "docs/data-sets.md").read_text()
    assert sorted(name for name in columns if f"`{name}`" not in text) == []


def commands():
    """Each call to `e2evit` or a script in the shell blocks of the README and the site: page, command, arguments."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES):
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                scripts = [number for number, word in enumerate(words) if re.fullmatch(r"scripts/\w+\.py", word)]
                if words[:1] == ["e2evit"]:
                    yield page.stem, words[1], words[2:]
                elif scripts:
                    (command,) = re.findall(r'run\("(\w+)"\)', (ROOT / words[scripts[0]]).read_text())
                    yield page.stem, command, words[scripts[0] + 1 :]


def test_commands_and_options_exist(capsys):
    helps = {}
    for page, command, arguments in commands():
        if command == "--help":
            continue
        assert command in COMMANDS, f"{page}: e2evit {command}"
        if command not in helps:
            with pytest.raises(SystemExit) as stop:
                run(command, ["--help"])
            assert stop.value.code == 0
            helps[command] = set(re.findall(r"--\w+", capsys.readouterr().out))
        options = {word.split("=")[0] for word in arguments if word.startswith("--")}
        assert options <= helps[command], f"{page}: e2evit {command} has no {options - helps[command]}"
    assert {"simulate", "train", "eval", "prepare", "export"} <= set(helps)


def test_the_model_of_the_page_on_architectures():
    """docs/own_model.py: registered, and its losses have gradients everywhere."""
    code = """
import runpy, torch
from transformers import AutoModelForImageClassification
names = runpy.run_path("docs/own_model.py")
config = names["DeepSetConfig"](image_size=50)
model = AutoModelForImageClassification.from_config(config)
outputs = model(torch.rand(2, 8, 50, 50), labels=torch.tensor([0, 1]), mass_labels=torch.tensor([80.0, 170.0]))
outputs.loss.backward()
assert outputs.logits.shape == (2, 2) and outputs.mass_preds.shape == (2,)
assert all(parameter.grad.any() for parameter in model.parameters())
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
