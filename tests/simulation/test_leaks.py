"""Nothing but the jet itself may reveal its class."""

from itertools import count

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from simulation_checks import nuisances
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from e2evit.data.columns import PARTICLE_COLUMNS
from e2evit.data.grid import WINDOW, position_in_grid
from e2evit.data.sparse import table_to_dense
from e2evit.simulation import SimulationSettings, shards
from e2evit.simulation.cells import IMPACT
from e2evit.simulation.channels import crystals, cut_out
from e2evit.simulation.ecal import crystal_energy
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.hcal import tower_energy
from e2evit.simulation.images import jet_windows
from e2evit.simulation.kept import axis_crystal
from e2evit.simulation.spectra import Acceptance

SETTINGS = {"seed": 1, "pool_size": 60, "match_pt": True, "merged_only": True}
SHARD = 500
CLASSES = ("qcd", "top", "w", "z", "h")
TOLERANCE = 0.03  # the standard error of an AUC of 0.5 for 1 000 jets of one class among 5 000 is 0.010


def remembered(generate):
    """Pythia takes most of the time: a second pass with the same arguments gets the same events."""
    made = {}

    def again(*arguments, **options):
        batches, seen = made.setdefault(repr((arguments, options)), (generate(*arguments, **options), []))
        for number in count():
            if number == len(seen):
                seen.append(next(batches))
            yield seen[number]

    return again


@pytest.fixture(scope="module")
def jets():
    """For all classes, images, and the particles of the first 500 of these events."""
    images, particles = SimulationSettings(**SETTINGS), SimulationSettings(**SETTINGS, keep="particles")
    pool, made, kept = shards.make_pool(images), [], []
    for process in CLASSES:
        with pytest.MonkeyPatch.context() as patch:  # for each class, or the events of all take 2 GB
            patch.setattr(shards, "generate", remembered(shards.generate))
            acceptance = shards.make_acceptance(process, images)
            number = 4 if process in ("qcd", "top") else 2
            parts = [shards.make_shard(process, part, SHARD, images, pool, acceptance) for part in range(number)]
            made.append(pa.concat_tables(parts))
            kept.append(shards.make_shard(process, 0, SHARD, particles, None, acceptance))
    return made, kept


def separation(features: list[np.ndarray]) -> dict[str, float]:
    """How well each class is told from the others: AUC of a classifier, by cross-validation."""
    features = [part[: 2 * SHARD] for part in features]
    labels, x = np.repeat(np.arange(len(features)), [len(part) for part in features]), np.concatenate(features)
    classifier = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=8, learning_rate=0.05)
    order = np.random.default_rng(0).permutation(len(labels))
    scores = cross_val_predict(classifier, x[order], labels[order], cv=5, method="predict_proba")
    return {CLASSES[number]: roc_auc_score(labels[order] == number, score) for number, score in enumerate(scores.T)}


@pytest.mark.thorough
def test_a_classifier_on_nuisances_guesses(jets):
    """Tops that decay within the jet are rare at low pT: without matching, their pT gives them away."""
    columns = ["num_pileup", "ieta", "iphi", "pt"]
    features = [nuisances(Dataset(table.select(columns))) for table in jets[0]]
    areas = separation(features)
    assert max(abs(area - 0.5) for area in areas.values()) < TOLERANCE, areas
    # of two classes with 2 000 jets the standard error is 0.009
    labels, pair = np.repeat([0, 1], 4 * SHARD), np.concatenate(features[:2])
    for feature in pair.T:
        assert abs(roc_auc_score(labels, feature) - 0.5) < 0.02
    labels = np.repeat(np.arange(len(CLASSES)), 2 * SHARD)
    for feature in np.concatenate([part[: 2 * SHARD] for part in features]).T:
        for number in range(len(CLASSES)):
            assert abs(roc_auc_score(labels == number, feature) - 0.5) < TOLERANCE


@pytest.mark.thorough
def test_noise_dead_and_noisy_channels_do_not_tell_classes(jets):
    """What the detector shows where the jets are, without them: it depends on the place, which is matched."""
    features, nothing, layout = [], np.zeros(0, IMPACT), GEOMETRIES["run1"]
    for number, table in enumerate(jets[0]):
        events, rng = np.arange(table.num_rows), np.random.default_rng(number)
        frames = jet_windows(events, np.array(table["ieta"]), np.array(table["iphi"]))
        ecal = crystal_energy(frames, nothing, layout, rng)
        hcal = tower_energy(len(events), nothing, layout, rng)
        alive = [image.mean() for image in cut_out(crystals().alive, frames)]
        counts = [(ecal > 0).sum(axis=(1, 2)), ecal.sum(axis=(1, 2)), (hcal > 0).sum(axis=(1, 2))]
        features.append(np.stack([*counts, alive], axis=1))
    areas = separation(features)
    assert max(abs(area - 0.5) for area in areas.values()) < 0.04, areas  # measured: 0.034


@pytest.mark.thorough
def test_borders_of_images_know_little(jets):
    """The outer five rows and columns: radiation and recoil differ between processes there, as outside R = 1."""
    border = np.ones((WINDOW, WINDOW), bool)
    border[5:-5, 5:-5] = False
    features = []
    for table in jets[0]:
        pixels = table_to_dense(table, (8, WINDOW, WINDOW))[:, :, border]
        features.append(np.concatenate([np.abs(pixels).sum(axis=2), (pixels != 0).sum(axis=2)], axis=1))
    areas = separation(features)
    # measured: 0.535 for QCD, 0.515 for W, less for the others
    assert max(abs(area - 0.5) for area in areas.values()) < 0.065, areas


@pytest.mark.thorough
def test_the_surroundings_do_not_reveal_the_class(jets):
    """Particles outside the window, which are kept because seed and vertex may move, know as little as the physics of
    the underlying event."""
    areas = separation([surroundings(table) for table in jets[1]])
    # measured: 0.53 for QCD, less for the others; the standard error is 0.014
    assert max(abs(area - 0.5) for area in areas.values()) < 0.08, areas


def surroundings(table: pa.Table) -> np.ndarray:
    """Of the particles outside the window around the axis: number and pT, by side, and of displaced ones."""
    row, column = axis_crystal(np.array(table["eta"]), np.array(table["phi"]))
    lists = {name: table[name].combine_chunks() for name in PARTICLE_COLUMNS}
    jet = np.repeat(np.arange(table.num_rows), np.diff(lists["particle_id"].offsets.to_numpy()))
    values = {name: column.flatten().to_numpy() for name, column in lists.items()}
    rows, columns = position_in_grid(values["particle_eta"], values["particle_phi"])
    down, across = rows - row[jet], (columns - column[jet] + 180) % 360 - 180
    outside = np.maximum(np.abs(down), np.abs(across)) > WINDOW // 2 + 1
    sides = [outside & side for side in (down > 62, down < -62, across > 62, across < -62)]
    sides.append(outside & (np.hypot(values["particle_x"], values["particle_y"]) > 0.01))
    sums = [np.bincount(jet, side * weight, table.num_rows) for side in sides for weight in (1, values["particle_pt"])]
    return np.stack(sums, axis=1)


def test_acceptance_makes_spectra_equal():
    rng = np.random.default_rng(0)
    accepted = []
    for slope, width in ((2.0, 0.7), (-1.0, 1.5)):
        uniform = rng.random(40000)
        pt = 400 + 600 * np.log1p(uniform * np.expm1(slope)) / slope  # exponential between 400 and 1 000 GeV
        eta = rng.normal(0, width, 40000)
        pt, eta = pt[np.abs(eta) < 1.37], eta[np.abs(eta) < 1.37]
        acceptance = Acceptance.fit(pt[:4000], eta[:4000], (400.0, 1000.0), rng)
        kept = rng.random(len(pt)) < acceptance.probability(pt, eta)
        accepted.append((pt[kept], np.abs(eta[kept])))
    for first, second in zip(*accepted):
        labels = np.repeat([0, 1], [len(first), len(second)])
        assert abs(roc_auc_score(labels, np.concatenate([first, second])) - 0.5) < 0.015
    shares = np.histogram(accepted[0][0], 6, (400, 1000))[0] / len(accepted[0][0])
    np.testing.assert_allclose(shares, 1 / 6, atol=0.02)
