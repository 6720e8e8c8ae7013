"""Weights undo what enhances and matches spectra; mass guns are flat in mass and pT after containment."""

import awkward as ak
import numpy as np
import pytest

from e2evit.data import find_schema
from e2evit.simulation import SimulationSettings, shards, simulate
from e2evit.simulation.events import generate
from e2evit.simulation.jets import Jets
from e2evit.simulation.processes import PROCESSES
from e2evit.simulation.spectra import Acceptance
from e2evit.training.collate import E2ECollator

RANGE = (400.0, 1000.0)


def jets_of(event, pt, eta) -> Jets:
    zero = np.zeros(len(pt))
    return Jets(
        event=event,
        momentum=np.stack([pt, zero, pt * np.sinh(eta), pt * np.cosh(eta)], axis=1),
        heavy_mass=zero,
        merged=zero == 0,
        parton=zero.astype(int),
        weight=zero + 1,
        particles=ak.Array([[]] * len(pt)),
    )


def chi_square(mass, pt, mass_range) -> float:
    """Per degree of freedom, of 4 x 4 bins of equal content."""
    counts = np.histogram2d(mass, pt, (4, 4), (mass_range, RANGE))[0]
    return float(((counts - counts.mean()) ** 2).sum() / counts.mean() / 15)


def test_weights_undo_matching():
    """Some events are refused early, and jets of the others then have the rest of their probability."""
    rng = np.random.default_rng(0)
    event = np.repeat(np.arange(40000), rng.integers(1, 3, 40000))
    pt = 400 + rng.exponential(150, len(event)) % 600
    eta = rng.uniform(-1.37, 1.37, len(pt))
    acceptance = Acceptance.fit(pt[:4000], eta[:4000], RANGE, rng)
    starts = np.searchsorted(event, np.arange(1, 40000))
    candidates = zip(*(np.split(values + rng.normal(0, 0.01 * values.std(), len(pt)), starts) for values in (pt, eta)))
    early = np.array([acceptance.of_event(*one, None) for one in candidates])
    jets = jets_of(event, pt, eta)
    jets.weight = 1 / early[event]
    jets = jets.select((rng.random(40000) < early)[event])
    assert len(jets.event) < 0.8 * len(event)
    kept = shards._accept(jets, early[jets.event], acceptance, rng)
    assert len(np.unique(kept.event)) < len(kept.event) < len(jets.event)
    before, after = np.histogram(pt, 6, RANGE)[0], np.histogram(kept.pt, 6, RANGE)[0]
    assert before[0] / before[-1] > 5 > after[0] / after[-1]
    weighted = np.histogram(kept.pt, 6, RANGE, weights=kept.weight)[0]
    error = np.sqrt(np.histogram(kept.pt, 6, RANGE, weights=kept.weight**2)[0])
    assert (np.abs(weighted - before) < 4 * np.hypot(error, np.sqrt(before))).all()


def test_weights_undo_the_enhancement_of_large_pt():
    bare = [f"{name} = off" for name in ("PartonLevel:ISR", "PartonLevel:FSR", "PartonLevel:MPI", "HadronLevel:all")]
    batch = next(generate(PROCESSES["qcd"], 1, 8000.0, RANGE, extra=bare, batch_size=100))
    pt_hat = np.hypot(*batch.parton_momentum[::2, :2].T)
    assert len(pt_hat) == len(batch.weight) == 100
    assert 330 < pt_hat.min() < 390 < 1000 < pt_hat.max() < 1050  # beyond both edges of the jets
    np.testing.assert_allclose(batch.weight, (pt_hat / 400) ** -PROCESSES["qcd"].bias, rtol=1e-3)


def test_rows_have_weights_that_no_model_sees():
    settings = SimulationSettings(seed=1, pileup=0.0)
    weights = {
        process: shards.make_shard(process, 0, 20, settings)["weight"].to_numpy() for process in ("qcd", "x_qq")
    }
    assert (weights["x_qq"] == 1).all()
    assert weights["qcd"].min() > 0
    assert weights["qcd"].max() > 20 * weights["qcd"].min()
    processor = type("Processor", (), {"aux_names": ("pt",)})()
    assert not {"event_id", *find_schema("simulated").extra} & set(E2ECollator(processor).columns)


def test_an_acceptance_in_mass_makes_contained_jets_flat():
    """In a toy, a jet holds a decay whose opening angle 2 m / pT is small."""
    rng = np.random.default_rng(1)

    def contained(number):
        mass, pt, eta = rng.uniform(50, 250, number), rng.uniform(*RANGE, number), rng.normal(0, 0.6, number)
        holds = rng.random(number) < 1 / (1 + np.exp((2 * mass / pt - 0.8) / 0.15))
        return tuple(values[holds & (np.abs(eta) < 1.37)] for values in (mass, pt, eta))

    mass, pt, eta = contained(8000)
    acceptance = Acceptance.fit(pt, eta, RANGE, rng, mass, (50.0, 250.0))
    mass, pt, eta = contained(40000)
    assert chi_square(mass, pt, (50, 250)) > 20
    kept = rng.random(len(pt)) < acceptance.probability(pt, eta, mass)
    assert kept.sum() > 1500
    assert chi_square(mass[kept][:1500], pt[kept][:1500], (50, 250)) < 2  # 1 is expected, 2 has a probability of 1 %


@pytest.mark.thorough
def test_a_gun_is_flat_in_mass_and_pt_after_containment(monkeypatch):
    monkeypatch.setattr(shards, "PILOT_JETS", 2500)
    settings = SimulationSettings(
        seed=1,
        match_pt=True,
        merged_only=True,
        match_mass=True,
        max_mass=200.0,
        min_mass=50.0,
        pileup=0.0,
        pythia=["PartonLevel:MPI = off"],
    )
    acceptance = shards.make_acceptance("x_qq", settings)
    rows = shards.make_shard("x_qq", 0, 800, settings, acceptance=acceptance)
    assert rows["merged"].to_numpy(zero_copy_only=False).all()
    assert chi_square(rows["mass_labels"].to_numpy(), rows["pt"].to_numpy(), (50, 200)) < 2


def test_flat_masses_need_contained_jets_of_equal_spectra(tmp_path):
    with pytest.raises(ValueError, match="set all three"):
        simulate(tmp_path / "out", ["x_qq"], 10, SimulationSettings(match_mass=True, match_pt=True))
    assert not (tmp_path / "out").exists()
