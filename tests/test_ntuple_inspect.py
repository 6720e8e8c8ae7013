"""What `e2evit inspect` tells about ROOT files."""

from pathlib import Path

import h5py
import numpy as np
import uproot
from ntuple_files import events, variant, write

from e2evit.data import branches
from e2evit.data.inspect import inspect_file

VECTORS = Path(__file__).parent / "data/ntuple/vectors.root"


def test_inspect_goes_on_after_a_tree_that_cannot_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.root", events(variant("ntuple_5", "dijet"), (1,), one_in=997))
    with uproot.update(path) as file:
        file.mktree("other", {"x": "float32"}).extend({"x": np.ones(7, np.float32)})
    original = branches.row_problem
    problem = lambda shape, *more: "it lies" if shape == (7,) else original(shape, *more)  # noqa: E731
    monkeypatch.setattr(branches, "row_problem", problem)
    lines, _, schema = inspect_file(path)
    assert "  other: TTree, it lies." in lines
    assert schema == variant("ntuple_5", "dijet")
    assert lines[lines.index("does not fit:") + 1].startswith("  ntuple")


def test_inspect_shows_no_counters_and_no_repeated_reasons(tmp_path):
    held = events(variant("ntuple_5", "dijet"), (1,), one_in=997)
    held["HBHE_energy_"] = held.pop("HBHE_energy")
    lines, *_ = inspect_file(write(tmp_path / "a.root", held, images="lists"))
    assert "  ntuple_5: missing branch HBHE_energy (similar: HBHE_energy_, ECAL_energy)" in lines
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros(3)
    lines, *_ = inspect_file(tmp_path / "a.h5")
    assert sum("its files are root" in line for line in lines) == 1


def test_inspect_lists_trees_and_branches():
    lines, survey, schema = inspect_file(VECTORS)
    text = "\n".join(lines)
    assert "fevt/RHTree: TTree, 2 entries" in text
    assert "ECAL_energy                         vector<float>           100800 in the first entry" in text
    assert "SC_energy                           vector<vector<float>>   1024, 1024 in the first entry" in text
    assert "text                                it holds string, not numbers" in text
    assert "fits: ntuple_5 (a to tau tau), ntuple_photons; read as ntuple_5" in text
    assert "  ntuple_5_aod: missing branch ECAL_energy_AOD, HBHE_energy_AOD" in text
    assert "2 events; statistics of 3 jets from a sample of them" in text
    assert schema == variant("ntuple_5", "a to tau tau")
    assert survey.means["all"].shape == (5, 125, 125)


def test_inspect_lists_a_file_without_the_usual_tree(tmp_path):
    lines, _, schema = inspect_file(write(tmp_path / "a.root", {"x": [[1]]}, tree="Events"))
    assert "  Events: TTree, 1 entries" in lines
    assert any("ntuple_8, " in line and line.endswith("no tree `fevt/RHTree` (it holds Events)") for line in lines)
    assert schema is None
