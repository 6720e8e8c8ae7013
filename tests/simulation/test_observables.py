"""Observables of jets, by hand and against FastJet's own grooming."""

import awkward as ak
import fastjet
import numpy as np
import pytest

from e2evit.simulation.observables import candidate_observables, jet_observables
from e2evit.simulation.particle_flow import CANDIDATE

# pT [GeV], eta, phi of massless particles: two prongs of 200 and 100 GeV, 0.5 apart
PRONGS = [(200.0, 0.0, 0.0), (100.0, 0.3, 0.4)]
PRONGS_MASS = np.sqrt(2 * 200 * 100 * (np.cosh(0.3) - np.cos(0.4)))


def jets_of(*jets) -> ak.Array:
    pt, eta, phi = np.array([particle for jet in jets for particle in jet]).reshape(-1, 3).T
    momenta = {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta), "E": pt * np.cosh(eta)}
    return ak.unflatten(ak.zip(momenta, with_name="Momentum4D"), np.array([len(jet) for jet in jets], int))


def test_two_prongs_and_a_soft_particle():
    """The soft particle at a large angle is groomed away, and is all that the two axes do not explain."""
    found = jet_observables(jets_of(PRONGS, [*PRONGS, (5.0, -0.6, 0.1)]))
    assert found["soft_drop_mass"] == pytest.approx([PRONGS_MASS, PRONGS_MASS])
    assert found["multiplicity"].tolist() == [2, 3]
    assert found["tau21"] == pytest.approx([0, 0], abs=0.06)
    assert found["tau21"][0] < found["tau21"][1]
    assert np.isnan(found["tau32"][0])  # tau2 is zero
    assert found["tau32"][1] == pytest.approx(0, abs=1e-6)


def test_one_prong():
    found = jet_observables(jets_of([(100.0, 0.0, 0.0), (4.0, 0.1, 0.1), (2.0, -0.2, 0.1)]))
    assert found["soft_drop_mass"] == pytest.approx([0], abs=1e-3)  # each splitting is too soft
    assert found["tau21"][0] > 0.2


def test_jets_of_few_particles():
    found = jet_observables(jets_of([], [(50.0, 0.2, 1.0)], []))
    assert found["multiplicity"].tolist() == [0, 1, 0]
    assert np.isnan(found["soft_drop_mass"]).tolist() == [True, False, True]
    assert found["soft_drop_mass"][1] == pytest.approx(0, abs=1e-3)
    assert np.isnan(found["tau21"]).all()
    assert all(len(values) == 0 for values in jet_observables(jets_of()).values())


def test_soft_drop_is_fastjets():
    rng = np.random.default_rng(0)
    jets = jets_of(*(np.stack([rng.exponential(20, 40), *rng.normal(0, 0.3, (2, 40))], axis=1) for _ in range(50)))
    clusters = fastjet.ClusterSequence(jets, fastjet.JetDefinition(fastjet.cambridge_algorithm, 10.0))
    groomed = clusters.exclusive_jets_softdrop_grooming(njets=1, beta=0.0, symmetry_cut=0.1, R0=0.8)
    assert jet_observables(jets)["soft_drop_mass"] == pytest.approx(ak.to_numpy(groomed.msoftdrop))


def test_observables_of_candidates_leave_out_other_vertices():
    pt, eta, phi = np.array([*PRONGS, (60.0, -0.5, 0.0)]).T
    candidates = np.zeros(6, CANDIDATE)
    candidates["jet"] = np.repeat([0, 2], 3)
    for name, values in (("pt", pt), ("eta", eta), ("phi", phi), ("energy", pt * np.cosh(eta))):
        candidates[name] = np.tile(values, 2)
    candidates["charge"][[2, 5]], candidates["dz"][2] = 1, 3.0  # of another vertex in the first jet only
    found = {name: values.to_pylist() for name, values in candidate_observables(candidates, 3).items()}
    assert found["reco_multiplicity"] == [2, 0, 3]
    assert found["reco_mass"][0] == pytest.approx(PRONGS_MASS, rel=1e-4)
    assert found["reco_mass"][2] > 1.1 * PRONGS_MASS
    assert found["reco_soft_drop_mass"][1] is None
    assert found["reco_pt"][1] == 0
