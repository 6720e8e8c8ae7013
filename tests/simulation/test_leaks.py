"""Nothing but the jet itself may reveal its class."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from e2evit.simulation import SimulationSettings, simulate
from e2evit.simulation.spectra import Acceptance
from e2evit.simulation.validation import nuisances


@pytest.mark.slow
def test_a_classifier_on_nuisances_guesses(tmp_path):
    """Tops that decay within the jet are rare at low pT: without matching, their pT gives them away."""
    settings = SimulationSettings(seed=1, pool_size=60, shard_size=500, match_pt=True, merged_only=True)
    simulate(tmp_path, ["qcd", "top"], 2000, settings, num_proc=2)
    columns = ["event_id", "num_pileup", "ieta", "iphi", "pt"]
    tables = (
        [pq.read_table(path, columns=columns) for path in sorted(tmp_path.glob(f"{p}-*"))] for p in ("qcd", "top")
    )
    features = np.concatenate([nuisances(Dataset(pa.concat_tables(parts))) for parts in tables])
    labels = np.repeat([0, 1], 2000)
    classifier = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, learning_rate=0.05)
    order = np.random.default_rng(0).permutation(4000)
    scores = cross_val_predict(classifier, features[order], labels[order], cv=5, method="predict_proba")[:, 1]
    # the standard error of an AUC of 0.5 with 2 000 jets a class is 0.009
    assert abs(roc_auc_score(labels[order], scores) - 0.5) < 0.02
    for feature in features.T:
        assert abs(roc_auc_score(labels, feature) - 0.5) < 0.02


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
