"""Write vectors.root as CMSSW does, with `std::vector` branches that uproot cannot write, and the same as an RNTuple.

    pip install root==0.1a12 && PYTHONPATH=tests python tests/data/ntuple/make.py

Two events with two jets and one, and as many photons: the branches of `ntuple_5` and `ntuple_photons`. `SC_energyT` is
an array of C; in the RNTuple, a vector of arrays.
"""

from array import array
from pathlib import Path

import ROOT
from ntuple_files import vector_events


def open_file(name):
    file = ROOT.TFile(str(Path(__file__).with_name(name)), "RECREATE", "", 509)
    folder = file.mkdir("fevt")
    folder.cd()
    ROOT.TH1F("ECAL_energy", "a histogram with the name of a branch", 1, 0, 1).Write()
    return file, folder


events = vector_events()
file, _ = open_file("vectors.root")
tree = ROOT.TTree("RHTree", "RecHit tree")
held: dict = {}
for key, values in events.items():
    if isinstance(values[0], int):
        held[key] = array("L", [0]) if key == "eventId" else array("I", [0])
        tree.Branch(key, held[key], f"{key}/{'l' if key == 'eventId' else 'i'}")
    elif key == "SC_energyT":
        held["nSC"], held[key] = array("i", [0]), array("f", [0.0] * 4 * 1024)
        tree.Branch("nSC", held["nSC"], "nSC/I")
        tree.Branch(key, held[key], f"{key}[nSC][1024]/F")
    else:
        held[key] = ROOT.std.vector("std::vector<float>" if values[0].ndim == 3 else "float")()
        tree.Branch(key, held[key])
held["text"] = ROOT.std.string("a branch that holds no numbers")
tree.Branch("text", held["text"])
for event in range(len(events["runId"])):
    for key, values in events.items():
        if isinstance(values[event], int):
            held[key][0] = values[event]
        elif key == "SC_energyT":
            held["nSC"][0] = len(values[event])
            held[key][: values[event].size] = array("f", values[event].reshape(-1).tolist())
        elif values[event].ndim == 3:
            held[key].assign([ROOT.std.vector("float")(crop.reshape(-1).tolist()) for crop in values[event]])
        else:
            held[key].assign(values[event].reshape(-1).tolist())
    tree.Fill()
tree.Write()
file.Close()

file, folder = open_file("rntuple.root")
model = ROOT.RNTupleModel.Create()
for key, values in events.items():
    if isinstance(values[0], int):
        kind = "std::uint64_t" if key == "eventId" else "std::uint32_t"
    elif key == "SC_energyT":
        kind = "std::vector<std::array<float, 1024>>"
    else:
        kind = "std::vector<std::vector<float>>" if values[0].ndim == 3 else "std::vector<float>"
    model.MakeField[kind](key)
model.MakeField["std::string"]("text")
writer = ROOT.RNTupleWriter.Append(model, "RHTree", folder)
entry = writer.CreateEntry()
for event in range(len(events["runId"])):
    for key, values in events.items():
        if isinstance(values[event], int):
            entry[key] = values[event]
        elif key == "SC_energyT":
            crops = ROOT.std.vector("std::array<float, 1024>")(len(values[event]))
            for crop, numbers in zip(crops, values[event]):
                for place, number in enumerate(numbers.reshape(-1).tolist()):
                    crop[place] = number
            entry[key] = crops
        elif values[event].ndim == 3:
            entry[key] = [ROOT.std.vector("float")(crop.reshape(-1).tolist()) for crop in values[event]]
        else:
            entry[key] = values[event].reshape(-1).tolist()
    entry["text"] = "a field that holds no numbers"
    writer.Fill(entry)
del writer
file.Close()
