"""The AMX kernels as a package of Hugging Face's `kernels`: what its own parser and loader make of it."""

import re
import subprocess
import sys
from pathlib import Path

import fetched
import pytest
import torch
from e2evit.modeling.modeling_kernels import FAKES

DEPLOY = Path(__file__).parents[1] / "deploy/kernels"
SOURCES = DEPLOY.parents[1] / "modeling/kernels"
PACKAGES = ("kernels==0.17.2",)
pytestmark = pytest.mark.cpp
FLAGS = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
LOAD = """
import sys
from pathlib import Path
import torch
from kernels import get_local_kernel
from kernels._rust import Build, Digest, DigestAlgorithm, Metadata

if sys.argv[2] == "pretend":
    torch.cpu._is_amx_tile_supported = torch.cpu._init_amx = lambda: True
folder = Path(sys.argv[1])
assert [str(backend) for backend in Build.open(folder).general.backends] == ["cpu"]
(variant,) = (folder / "build").iterdir()
metadata = Metadata.read_from_file(variant / "metadata.json")
metadata.digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, variant))
amx = get_local_kernel(folder)
assert amx.__name__ == metadata.id
"""
# without tiles: AVX-512 alone
DEPTHWISE = """
torch.manual_seed(0)
grid, weight, bias = torch.randn(2, 9, 11, 64).bfloat16(), torch.randn(64, 1, 5, 5), torch.randn(64)
kernel = weight.flatten(1).t().contiguous()
images, weight = grid.float().permute(0, 3, 1, 2), weight.requires_grad_()
expected = torch.nn.functional.conv2d(images, weight, bias, padding=2, groups=64).permute(0, 2, 3, 1)
found = amx.depthwise(grid, kernel, bias, 5)
assert (found.float() - expected).norm() < 0.01 * expected.norm()  # rounded to 2^-9
gradient = torch.randn_like(expected).bfloat16()
expected.backward(gradient.float())
found = amx.depthwise_gradient(gradient, grid, 5)
assert (found[:-1].t() - weight.grad.flatten(1)).norm() < 0.01 * weight.grad.norm()
compiled = torch.compile(lambda grid: 2 * amx.depthwise(grid, kernel, bias, 5), backend="aot_eager", fullgraph=True)
assert torch.equal(compiled(grid), 2 * amx.depthwise(grid, kernel, bias, 5))
"""
TILES = """
norm, fc1, fc2 = torch.nn.LayerNorm(64), torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)
with torch.no_grad():
    for layer in (fc1, fc2):
        layer.weight.copy_(layer.weight.bfloat16())
    expected = grid.float() + fc2(torch.nn.functional.gelu(fc1(norm(grid.float()))))
    layers = [part for layer in (fc1, fc2) for part in (amx.panels(layer.weight), layer.bias)]
    found = amx.mlp(grid, norm.weight, norm.bias, norm.eps, *layers, torch.ones(64))
assert (found.float() - expected).norm() < 0.01 * expected.norm()
"""


def make(*arguments, **environment):
    command = [sys.executable, DEPLOY / "make.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment or None)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels") / "project"
    done = make(folder, "--build")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def load(project, monkeypatch, code, how):
    monkeypatch.setenv("PYTHONPATH", str(fetched.fetch(*PACKAGES)))
    command = [sys.executable, "-c", LOAD + code, project, how]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif("avx512_bf16" not in FLAGS, reason="the processor has no AVX-512 for bfloat16")
def test_it_loads_and_agrees_with_pytorch(project, monkeypatch):
    has_amx = torch.cpu._is_amx_tile_supported()
    done = load(project, monkeypatch, DEPTHWISE + TILES * has_amx, "as it is" if has_amx else "pretend")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(torch.cpu._is_amx_tile_supported(), reason="the processor has AMX")
def test_a_processor_without_amx_is_told(project, monkeypatch):
    done = load(project, monkeypatch, "", "as it is")
    assert done.returncode == 1
    assert "ImportError: e2evit_amx needs an x86-64 processor with AMX" in done.stderr


def test_the_project_has_the_kernels_and_their_operators(project):
    listed = re.findall(r'"kernels/(.*?)"', (project / "build.toml").read_text())
    assert sorted(listed) == sorted(path.name for path in SOURCES.iterdir())
    for path in SOURCES.iterdir():
        assert (project / "kernels" / path.name).read_bytes() == path.read_bytes()
    defined = dict(
        re.findall(
            r'library\.def\((?:R")?[("](\w+)\((.*?)\) -> Tensor', (SOURCES / "kernels.cpp").read_text(), re.DOTALL
        )
    )
    code = (DEPLOY / "torch-ext/e2evit_amx/__init__.py").read_text()
    wrapped = dict(re.findall(r"^def ([a-z]\w+)\((.*?)\)(?: -> [\w.]+)?:", code, re.DOTALL | re.MULTILINE))
    assert set(defined) == set(FAKES) == set(wrapped) - {"panels"}
    for name, arguments in defined.items():
        assert [one.split()[-1] for one in arguments.split(",")] == [one.strip() for one in wrapped[name].split(",")]


def test_a_failed_build_leaves_nothing(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "CXX": "false"}
    done = make(tmp_path / "project", "--build", **environment)
    assert done.returncode == 1
    assert done.stderr.startswith("make.py: the kernels were not built.")
    assert not (tmp_path / "project/build").exists()


def test_other_folders_are_not_overwritten(tmp_path):
    (tmp_path / "kernels").mkdir()
    done = subprocess.run(
        [sys.executable, DEPLOY / "make.py", tmp_path], check=False, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"make.py: {tmp_path} holds other files: choose a new folder, or one that this script has made."
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "kernels"]
