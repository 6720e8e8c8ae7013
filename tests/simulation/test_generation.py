"""What spares Pythia work changes no distribution: the early veto, and several hadronisations of one shower."""

from collections import Counter

import numpy as np
import pytest

from e2evit.simulation import SimulationSettings, events, shards
from e2evit.simulation.early_veto import EarlyVeto
from e2evit.simulation.jets import find_jets
from e2evit.simulation.processes import PROCESSES
from e2evit.simulation.spectra import Acceptance

RANGE = (400.0, 1000.0)


class Undecided(EarlyVeto):
    """Says what it would refuse, and refuses nothing."""

    refused: list[bool] = []
    latest = False

    def _refuses(self, candidates):
        self.latest = super()._refuses(candidates)
        return False

    def onEndEvent(self, status):
        super().onEndEvent(status)
        self.refused.append(self.latest)


@pytest.mark.parametrize(
    ("process", "merged", "least"), [("qcd", False, 0.05), ("top", True, 0.08), ("w", True, 0.15)]
)
def test_the_early_veto_refuses_no_event_with_a_wanted_jet(process, merged, least, monkeypatch):
    """Of 30 000 jets one was refused."""
    monkeypatch.setattr(events, "EarlyVeto", Undecided)
    monkeypatch.setattr(Undecided, "refused", [])
    made, refused, wanted = PROCESSES[process], [], []
    for batch in events.generate(made, 3, 8000.0, RANGE, merged=merged, batch_size=400):
        jets = find_jets(batch, made.heavy, *RANGE)
        wanted = np.isin(np.arange(batch.num_events), jets.event[jets.merged] if merged else jets.event)
        refused = np.array(Undecided.refused)
        break
    assert len(refused) == len(wanted) == 400
    assert refused.mean() > least
    assert not (refused & wanted).any()


def test_weights_make_up_for_what_was_refused():
    qcd = PROCESSES["qcd"]
    half = next(events.generate(qcd, 3, 8000.0, RANGE, probability=lambda pt, eta, mass: 0.5))
    pt_hat = np.hypot(*half.parton_momentum[::2, :2].T)
    np.testing.assert_allclose(half.weight, 2 * (pt_hat / 400) ** -qcd.bias, rtol=1e-3)


def test_early_and_late_refusals_make_up_the_acceptance():
    rng = np.random.default_rng(0)
    pt, eta = 400 + 600 * rng.beta(1, 2, 4000), rng.normal(0, 0.6, 4000).clip(-1.3, 1.3)
    acceptance = Acceptance.fit(pt, eta, RANGE, rng)
    moved = np.abs(pt + rng.normal(0, 15, 4000)), eta + rng.normal(0, 0.02, 4000)  # before most of the shower
    kept = np.array([acceptance.of_event(*candidates, None) for candidates in np.stack(moved, axis=1)[:, :, None]])
    assert kept.mean() < 0.8
    np.testing.assert_allclose(kept * acceptance.given(kept, pt, eta), acceptance.probability(pt, eta), rtol=0.05)
    several = acceptance.of_event(np.array([450.0, 900.0]), np.zeros(2), None)
    alone = [acceptance.of_event(np.array([one]), np.zeros(1), None) for one in (450.0, 900.0)]
    assert several == pytest.approx(max(alone))


@pytest.mark.parametrize("process", ["w", "qcd"])
def test_a_matched_spectrum_is_flat(process, monkeypatch):
    monkeypatch.setattr(shards, "PILOT_JETS", 800)
    monkeypatch.setattr(shards, "PILOT_CANDIDATES", 5000)
    settings = SimulationSettings(seed=4, pileup=0.0, match_pt=True, pythia=["PartonLevel:MPI = off"])
    acceptance = shards.make_acceptance(process, settings)
    rows = shards.make_shard(process, 0, 600, settings, acceptance=acceptance)
    counts = np.histogram(rows["pt"], 4, RANGE)[0]
    assert ((counts - 150) ** 2 / 150).sum() < 16.3  # probability of 0.1 %, three degrees of freedom
    # each jet of an event is taken or left by itself
    assert all(number in (1, 2) for number in Counter(rows["event_id"].to_pylist()).values())
    # without weights pT-hat is spread evenly, with them it falls by more than an order of magnitude
    weights = np.histogram(rows["pt"], 4, RANGE, weights=rows["weight"])[0]
    assert weights[0] > 10 * weights[-1]


@pytest.mark.parametrize("process", ["top", "x_qq"])  # the gun's particle is none that Pythia knows
def test_hadronisations_of_one_shower(process):
    made = PROCESSES[process]
    batch = next(events.generate(made, 3, 8000.0, RANGE, batch_size=100, hadronizations=2))
    assert (batch.shower == np.arange(100) // 2).all()
    first, second = batch.heavy_momentum[batch.heavy_event % 2 == 0], batch.heavy_momentum[batch.heavy_event % 2 == 1]
    assert len(first) == 100
    assert np.array_equal(first, second)
    number = np.bincount(batch.event, minlength=100)
    assert (number[::2] != number[1::2]).mean() > 0.9
    # showers differ more than the hadronisations of one
    assert np.corrcoef(number[::2], number[1::2])[0, 1] > 0.7
    assert len(np.unique(batch.heavy_momentum[:, 0])) == len(first)


def test_hadronised_events_are_as_pythia_makes_them():
    top = PROCESSES["top"]
    usual, several = (
        next(events.generate(top, 3, 8000.0, RANGE, batch_size=300, hadronizations=number)) for number in (1, 3)
    )
    radius = {number: np.hypot(*batch.vertex[:, :2].T) for number, batch in ((1, usual), (3, several))}
    for kind in (22, 211, 321, 2112, 130):
        one, other = (
            np.bincount(batch.event[np.abs(batch.pdg_id) == kind], minlength=300) for batch in (usual, several)
        )
        # three hadronisations of a shower are at most as good as one
        assert abs(one.mean() - other.mean()) < 4 * np.hypot(one.std() / 300**0.5, other.std() / 100**0.5)
    # nothing that has left the ECAL decays when it is handed over
    assert all(values.max() < 317 for values in radius.values())
    late = {number: (values > 1).mean() for number, values in radius.items()}
    assert late[3] == pytest.approx(late[1], rel=0.1)


def test_events_of_one_shower_are_in_one_split():
    settings = SimulationSettings(seed=4, pileup=0.0, hadronizations=2)
    ids = shards.make_shard("qcd", 0, 12, settings)["event_id"].to_pylist()
    assert len(set(ids)) <= 7
    assert all(ids.count(one) >= 2 for one in ids[:8])
