"""Rows as awkward arrays: the numbers of the rows, in records that vector knows, with predictions of the same jets."""

import sys

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import vector
from samples import make_result

from e2evit import load_e2e
from e2evit.data import CANDIDATE_COLUMNS, find_schema, to_awkward
from e2evit.data.columns import EVENT_JET_COLUMNS
from e2evit.data.sparse import sparse_to_dense, table_to_dense
from e2evit.results.predictions import add_predictions

vector.register_awkward()


@pytest.fixture(scope="module")
def rows(simulated_jets):
    return load_e2e("simulated", simulated_jets, split="test")


@pytest.fixture(scope="module")
def schema(simulated_jets):
    return find_schema("simulated", simulated_jets)


@pytest.fixture
def jets(rows, schema):
    return to_awkward(rows, schema)


def test_columns_are_those_of_the_rows(rows, schema, jets):
    assert len(jets) == len(rows)
    assert jets.fields == [*(n.replace("jet_mass", "mass") for n in rows.column_names if "pixel" not in n), "pixels"]
    for name in ("labels", "mass_labels", "pt", "merged", "event_id", "tau21", "reco_pt"):
        assert jets[name].to_list() == rows[name][:]
    assert jets.mass.to_list() == rows["jet_mass"][:]
    assert to_awkward(rows.select([3, 1]), schema).event_id.to_list() == [rows[3]["event_id"], rows[1]["event_id"]]


def test_pixels_are_those_of_the_images(rows, schema, jets):
    expected = table_to_dense(rows.with_format("arrow")[:], schema.image_shape)
    found = np.zeros_like(expected)
    jet = ak.flatten(ak.broadcast_arrays(np.arange(len(jets)), jets.pixels.value)[0])
    pixels = ak.flatten(jets.pixels)
    places = [ak.to_numpy(values) for values in (jet, pixels.channel, pixels.row, pixels.column)]
    found[tuple(places)] = ak.to_numpy(pixels.value)
    np.testing.assert_array_equal(found, expected)
    row = rows[0]
    ecal = schema.channel_names.index("ecal")
    image = sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape)
    of_ecal = jets.pixels[0][jets.pixels[0].channel == ecal]
    np.testing.assert_allclose(ak.sum(of_ecal.value), image[ecal].sum(), rtol=1e-5)  # another order of summation


def test_vector_knows_jets(jets):
    assert jets.layout.purelist_parameter("__record__") == "Momentum4D"
    pz = jets.pt * np.sinh(jets.eta)
    np.testing.assert_allclose(jets.energy, np.sqrt(jets.mass**2 + jets.pt**2 + pz**2), rtol=1e-5)  # float32
    first, second = jets[0], jets[1]
    turn = (first.phi - second.phi + np.pi) % (2 * np.pi) - np.pi
    assert first.deltaR(second) == pytest.approx(np.hypot(first.eta - second.eta, turn), rel=1e-5)
    assert (first + second).mass > first.mass + second.mass


def test_no_rows_have_the_fields_of_rows(rows, schema, jets):
    none = to_awkward(rows.select([]), schema)
    assert (len(none), none.fields) == (0, jets.fields)
    assert len(none.energy) == 0


def test_candidates_and_jets_of_events(schema):
    """Each under its own name; an energy is as good as a mass."""
    lists = {"candidates": CANDIDATE_COLUMNS, "jets": EVENT_JET_COLUMNS}
    values = {name: [[1, 2], [], [3]] for columns in lists.values() for name in columns}
    values |= {"jets_merged": [[True, False], [], [True]], "candidate_eta": [[0.0, 1.0], [], [-1.0]]}
    values |= {"candidate_energy": [[5, 9], [], [9]]}
    columns = {"pixel_index": pa.array([[0], [1, 2], []], pa.list_(pa.uint32()))}
    columns |= {"pixel_value": pa.array([[1], [2, 3], []], pa.list_(pa.float32()))}
    for kinds in lists.values():
        for name, kind in kinds.items():
            kind = {"float32": pa.float32(), "bool": pa.bool_()}.get(kind) or pa.type_for_alias(kind)
            columns[name] = pa.array(values[name], pa.list_(kind))
    columns |= {"pt": pa.nulls(3, pa.float32()), "eta": pa.nulls(3, pa.float32()), "phi": pa.nulls(3, pa.float32())}
    events = to_awkward(pa.table(columns), schema)
    assert events.layout.purelist_parameter("__record__") is None, "events have no momentum"
    assert events.pixels.value.to_list() == [[1], [2, 3], []]
    assert events.candidates.fields == [name.removeprefix("candidate_") for name in CANDIDATE_COLUMNS]
    energy, momentum = np.array([5, 9, 9]), np.array([1, 2, 3]) * np.cosh([0.0, 1.0, -1.0])
    np.testing.assert_allclose(ak.flatten(events.candidates.mass), np.sqrt(energy**2 - momentum**2), rtol=1e-5)
    assert events.jets.fields == [name.removeprefix("jets_") for name in EVENT_JET_COLUMNS]
    assert events.jets.merged.to_list() == [[True, False], [], [True]]
    np.testing.assert_allclose(events.jets.px[0], [np.cos(1), 2 * np.cos(2)], rtol=1e-5)


def test_particles_keep_their_vertex_apart(simulated_jets):
    folder = simulated_jets.parent / "particles"
    rows = load_e2e("particles", folder, split="test")
    jets = to_awkward(rows, find_schema("particles", folder))
    assert jets.particles.id.to_list() == rows["particle_id"][:]
    np.testing.assert_allclose(jets.particles.pt[0], rows[0]["particle_pt"], rtol=1e-6)
    np.testing.assert_allclose(jets.particles.vertex.z[0], rows[0]["particle_z"], rtol=1e-6)
    np.testing.assert_allclose(jets.particles.px[0], jets.particles.pt[0] * np.cos(jets.particles.phi[0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pt": [1.0]}, "A row without `pixel_index`"),
        ({"pixel_index": [[10**6]], "pixel_value": [[1.0]]}, r"The images of 'simulated' are \(8, 125, 125\): index"),
    ],
)
def test_other_rows_are_refused(schema, columns, message):
    with pytest.raises(ValueError, match=message):
        to_awkward(pa.table(columns), schema)


def test_awkward_is_needed_for_arrays_alone(monkeypatch, rows, schema):
    monkeypatch.setitem(sys.modules, "awkward", None)
    with pytest.raises(ImportError, match=r"`to_awkward` needs awkward: pip install 'e2evit\[root\]'"):
        to_awkward(rows, schema)


def test_predictions_are_joined(rows, jets, tmp_path):
    columns = {"event_id": rows["event_id"][:], "image mass mass": np.zeros(len(rows), np.float32)}
    columns |= {f"model {name}": np.arange(len(rows), dtype=np.float32) for name in ("mass", "mass scale", "p_qcd")}
    make_result("xcit", 0, {}, predictions=columns).to_json(tmp_path / "xcit.json")
    joined = add_predictions(jets, {"xcit": tmp_path / "xcit.json", "again": tmp_path / "xcit.json"})
    assert joined.xcit.fields == ["mass", "mass_scale", "p_qcd"]
    assert joined.again.mass.to_list() == list(range(len(rows)))
    assert joined[joined.labels == 0].xcit.mass.to_list() == np.flatnonzero(np.array(rows["labels"]) == 0).tolist()
    np.testing.assert_array_equal(joined.energy, jets.energy)  # still a momentum
    with pytest.raises(ValueError, match=r"xcit\.json holds predictions for 35 jets, which are not the 34 given"):
        add_predictions(jets[1:], {"xcit": tmp_path / "xcit.json"})
    with pytest.raises(ValueError, match="already have a field 'pt'"):
        add_predictions(jets, {"pt": tmp_path / "xcit.json"})
