"""The CMSSW package `deploy/cmssw/E2ETagger` agrees with its configurations and our files.

It is compiled against what it uses of CMSSW, rewritten in `cmssw_framework.h`, never against CMSSW itself.
"""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from e2evit.hub.export import OUTPUTS

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "deploy/cmssw/E2ETagger"
# of the client, those that TritonClient describes: HeterogeneousCore/SonicTriton/src/TritonClient.cc
CLIENT = {"mode", "modelName", "modelVersion", "modelConfigPath", "preferredServer", "timeout", "outputs"}


class Config(ModuleType):
    """`FWCore.ParameterSet.Config` with values as they are."""

    untracked = SimpleNamespace(string=str, uint32=int, vstring=lambda *names: names)
    string, FileInPath = str, str

    @staticmethod
    def InputTag(*names):
        return names

    vstring = vuint32 = InputTag

    @staticmethod
    def PSet(**parameters):
        return parameters

    @staticmethod
    def EDProducer(plugin, **parameters):
        return plugin, parameters


@pytest.mark.parametrize("name", ["e2eJets", "e2eJetsSonic"])
def test_configurations_set_what_the_producers_describe(name, monkeypatch):
    config = Config("FWCore.ParameterSet.Config")
    for parent in ("FWCore", "FWCore.ParameterSet"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setattr(sys.modules["FWCore.ParameterSet"], "Config", config, raising=False)
    monkeypatch.setitem(sys.modules, config.__name__, config)
    plugin, parameters = runpy.run_path(str(PACKAGE / f"python/{name}_cfi.py"))[name]
    source = (PACKAGE / f"plugins/{plugin}.cc").read_text()
    assert f"DEFINE_FWK_MODULE({plugin});" in source
    assert "Never compiled against CMSSW itself" in source
    described = re.findall(r'description\.add<[^(]+>\("(\w+)"', source)
    client = parameters.pop("Client", {"outputs": parameters.get("outputs")})
    assert sorted(parameters) == sorted(described)
    assert set(client) <= CLIENT
    assert set(client["outputs"]) <= set(OUTPUTS)
    read = set(re.findall(r'config\.getParameter<[^(]+>\("(\w+)"\)', source))
    assert read <= set(described)


def test_every_plugin_is_built():
    built = re.findall(r'<library file="(.*?)"', (PACKAGE / "plugins/BuildFile.xml").read_text())
    assert sorted(built) == sorted(path.name for path in (PACKAGE / "plugins").glob("*.cc"))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cmssw")
    for source in (PACKAGE / "plugins").iterdir():
        for name in re.findall(r'#include "(\w+/\w+/interface/[\w/]+\.h)"', source.read_text()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text('#include "cmssw_framework.h"\n')
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", folder, "-I", HERE]
    command += ["-I", PACKAGE / "plugins", HERE / "cmssw_run.cpp", "-o", folder / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


@pytest.mark.cpp
@pytest.mark.parametrize(
    ("what", "lines"),
    [
        # sums of channels 2 and 0, and the first pixel of channel 2, by ONNX Runtime and by SONIC
        ("", ["mass 10 -1 30", "signal 13 -1 39"] * 2),
        ("empty", ["mass", "signal"] * 2),
        ("channel", ["E2ETagger: channel  7  of a frame of  3"]),
        ("outputs", ["Configuration: outputs names none of the model's outputs"]),
        ("sonic", ["E2ETagger: 2  jets are more than max_batch_size of config.pbtxt"]),
        ("server", ["Configuration: the client does not ask for output  mass"]),
    ],
)
def test_the_producers_run(program, what, lines):
    done = subprocess.run([program, what], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == lines
    assert done.returncode == int(":" in lines[0])
