"""The layout of the repository: imports point one way, packages are installed, public names are listed."""

import ast
import configparser
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from e2evit.modeling import FAMILIES
from forked import LIBRARIES, run_python

import e2evit

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("src/e2evit", "modeling", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
PYTHON = SOURCES + [
    path for folder in ("studies", "benchmarks", "tests") for path in sorted((ROOT / folder).rglob("*.py"))
]
# which of our parts each part may import, from bottom to top
ALLOWED = {
    "modeling": {"modeling"},
    "metrics": {"metrics"},
    "data": {"data", "modeling"},  # one file of it, without torch
    "transforms": {"transforms", "data", "modeling"},  # the augmentation, of its lists of pixels
    "results": {"results", "metrics", "data"},
    "baselines": {"baselines", "metrics", "data", "transforms", "results"},
    "simulation": {"simulation", "metrics", "data", "baselines"},
    "training": {"training", "modeling", "metrics", "data", "transforms", "results", "baselines", "simulation"},
    "plots": {"plots", "metrics", "data", "results"},
    "hub": {"hub", "modeling", "metrics", "data", "transforms", "results", "plots"},
    "cli": {
        *(
            "cli",
            "modeling",
            "metrics",
            "data",
            "transforms",
            "results",
            "baselines",
            "simulation",
            "training",
            "plots",
        ),
        "hub",
    },
}
REMOTE_CODE_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "numpy", *sys.stdlib_module_names}
IF_INSTALLED = {"h5py", "pyarrow"}  # imported inside `try`, for the files that only they read


def part_of(path: Path) -> str:
    if path.is_relative_to(ROOT / "modeling"):
        return "modeling"
    relative = path.relative_to(ROOT / "src/e2evit")
    return relative.parts[0].removesuffix(".py")


def imports(path: Path):
    """Absolute names of the modules that a file imports."""
    package = (
        ["e2evit", "modeling"]
        if "modeling" in path.parts
        else ["e2evit", *path.parent.relative_to(ROOT / "src/e2evit").parts]
    )
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if "scripts" not in p.parts], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_point_down(path):
    part = part_of(path)
    if part == "__init__":
        return
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("e2evit.")}
    assert ours <= ALLOWED[part], f"{part} must not import {ours - ALLOWED[part]}"
    optional = {"pythia8mc", "fastjet"} & set(imports(path))  # GPL
    assert not optional or part == "simulation" or (path.stem, optional) == ("clustering", {"fastjet"})


def test_imports_have_no_circles():
    parts = list(ALLOWED)
    for number, part in enumerate(parts):
        assert ALLOWED[part] <= set(parts[: number + 1]), f"{part} may import what stands above it"


@pytest.mark.parametrize("path", sorted((ROOT / "modeling").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_remote_code_is_self_contained(path):
    """transformers finds relative imports by a regular expression: siblings by name, nothing else, even in prose."""
    text = path.read_text()
    outside = {name.split(".")[0] for name in imports(path) if not name.startswith("e2evit")}
    assert outside <= REMOTE_CODE_MAY_IMPORT | (IF_INSTALLED if path.stem == "files_e2e" else set())
    assert not re.findall(r"^\s*(?:from \.+ import|from \.\.|import \.|from \.\w+\.)", text, re.MULTILINE)
    for sibling in re.findall(r"^from \.(\w+) import", text, re.MULTILINE):
        assert (ROOT / f"modeling/{sibling}.py").is_file()


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    packages = {"e2evit"} | {f"e2evit.{path.parent.name}" for path in (ROOT / "src/e2evit").glob("*/__init__.py")}
    assert listed == packages | {f"e2evit.{folder}" for folder in ("model_cards", "modeling", "recipes", "space")}


def test_public_api():
    assert e2evit.__all__ == sorted(e2evit.__all__, key=lambda name: (name[0].islower(), name))
    families = FAMILIES.values()
    expected = {of.__name__ for family in families for of in (family.config, *family.auto_classes.values())}
    expected |= {"E2EImageProcessor", "E2EOutput"}
    expected |= {"Result", "convert_reference", "load_e2e", "simulate", "train", "evaluate"}
    expected |= {"DataArguments", "TargetArguments", "TrainArguments"}
    assert set(e2evit.__all__) == expected
    assert all(hasattr(e2evit, name) for name in e2evit.__all__)


def test_data_need_no_torch():
    """Preparing data uses many processes; with torch each would need three times the memory."""
    code = """
import sys, e2evit.data.prepare, e2evit.simulation
from e2evit import Result, load_e2e, simulate
import transformers
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "code",
    [
        "import e2evit\nfrom transformers import AutoConfig, pipeline",
        "from transformers import AutoConfig\nimport e2evit",
        "from transformers.models.auto.configuration_auto import AutoConfig\nimport e2evit",
        "import transformers, e2evit.data\nfrom transformers import Trainer",
        "import e2evit\nfrom transformers.pipelines import pipeline",
        "import e2evit\nfrom transformers.models.auto import AutoModelForImageClassification",
        "import e2evit\nfrom transformers.models.auto.modeling_auto import AutoModelForImageClassification",
        "import e2evit\nimport transformers.models.auto.image_processing_auto",
        "import e2evit\nimport transformers.models.auto\ntransformers.models.auto.AutoConfig",
        "import e2evit\nfrom transformers.modeling_utils import PreTrainedModel",  # imports them on its way
        "import e2evit.modeling.modeling_stem",
    ],
)
def test_the_auto_classes_know_the_models(code):
    """Whichever is imported first; and Python imports the rest as it did before."""
    code = f"""
import sys, warnings
warnings.simplefilter("error")
{code}
known = sys.modules["transformers.models.auto.configuration_auto"].CONFIG_MAPPING
assert {{"linearvit", "xcit", "hitvit", "e2e_baseline"}} <= known._extra_content.keys()
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("e2evit")]
import transformers.pipelines
transformers.pipelines.check_task("e2e-jets")
"""
    done = run_python("-c", code, preloaded=LIBRARIES)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("folder", ["benchmarks", "studies"])
def test_programs_find_what_they_import(folder):
    code = "import runpy, sys; [runpy.run_path(path) for path in sys.argv[1:]]"
    paths = sorted((ROOT / folder).glob("*.py"))
    done = run_python("-c", code, *paths, cwd=paths[0].parent)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_program_shadows_a_library():
    """Python looks for imports beside a program first: a script named `evaluate` hides the library of that name."""
    libraries = {*sys.stdlib_module_names, *packages_distributions()}
    programs = [path.stem for folder in ("scripts", "studies", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    assert len(programs) > 20
    assert not libraries & set(programs)


def test_files_stay_short():
    long = {str(path.relative_to(ROOT)): n for path in PYTHON if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def text_calls(path: Path):
    """Line and keyword arguments of each call that reads or writes text, or starts a process that does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if method else getattr(node.func, "id", None)
        given = {keyword.arg for keyword in node.keywords}
        constants = [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
        modes = [text for text in constants if re.fullmatch(r"[rwax]b?\+?", text)] or ["b" if method else "r"]
        opened = name == "open" and not any("b" in mode for mode in modes)
        if name in ("read_text", "write_text") or opened or "text" in given:
            yield node.lineno, given


def test_text_is_utf_8():
    """Whatever the locale of the machine: what is written on one is read on another."""
    ours = [path for path in PYTHON if "tests" not in path.parts]
    guessed = [f"{p}:{line}" for p in ours for line, given in text_calls(p) if "encoding" not in given]
    assert not guessed


def test_no_private_paths():
    pattern = re.compile(r"/(?:root|home|work|tmp)/\w")
    texts = [*PYTHON, *ROOT.glob("*.md"), *ROOT.glob("recipes/**/*.*"), *ROOT.glob("results/*.json")]
    assert not [str(path) for path in texts if pattern.search(path.read_text())]


def test_page_checksums_are_always_verified():
    """Every reader of Parquet pages asks for it; the default of Arrow is not to look."""
    readers = {"pq.read_table", "pq.ParquetFile"}
    more = [path for folder in ("studies", "benchmarks", "space") for path in (ROOT / folder).rglob("*.py")]
    calls = [
        (path, node)
        for path in [*SOURCES, *more]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in readers
    ]
    assert len(calls) > 5
    for path, call in calls:
        assert "page_checksum_verification=True" in map(ast.unparse, call.keywords), f"{path}:{call.lineno}"
