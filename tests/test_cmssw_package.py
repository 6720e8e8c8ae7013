"""The CMSSW package `deploy/cmssw/E2ETagger`, not compiled here, agrees with its configurations and our files."""

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from e2evit.hub.export import OUTPUTS

PACKAGE = Path(__file__).parents[1] / "deploy/cmssw/E2ETagger"
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
    assert "Not compiled here" in source
    described = re.findall(r'description\.add<[^(]+>\("(\w+)"', source)
    client = parameters.pop("Client", {"outputs": parameters.get("outputs")})
    assert sorted(parameters) == sorted(described)
    assert set(client) <= CLIENT
    assert set(client["outputs"]) <= set(OUTPUTS)
    read = set(re.findall(r'config\.getParameter<[^(]+>\("(\w+)"\)', source))
    assert read <= {*described, "Client"}


def test_every_plugin_is_built():
    built = re.search(r'<library file="(.*?)"', (PACKAGE / "plugins/BuildFile.xml").read_text())[1].split(",")
    assert sorted(built) == sorted(path.name for path in (PACKAGE / "plugins").glob("*.cc"))
