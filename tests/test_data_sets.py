"""Every public data set comes back equal from a file in its layout; mismatches are reported, never guessed away."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from colliderml_files import DATA_SETS
from ntuple_files import LAYOUTS
from public_files import KINDS, jets, max_scaled, write_hdf5, write_parquet, write_public
from samples import HDF5_SCHEMA

from e2evit import load_e2e
from e2evit.data import SCHEMAS, find_schema
from e2evit.data.files import list_pieces, read_rows
from e2evit.data.formats import FileError
from e2evit.data.inspect import inspect_file
from e2evit.data.schema import parse_schema, read_schema
from e2evit.data.sparse import sparse_to_dense

REAL_IMAGE = Path(__file__).parent / "data/boostedtop"


def gather(dataset):
    """Rows of all splits of a data set, keyed by row number in the file."""
    return {int(row["event_id"].rsplit(":", 1)[1]): row for part in dataset.values() for row in part}


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_comes_back_equal(kind, tmp_path):
    name, images, expected = write_public(kind, tmp_path)
    schema = find_schema(name, tmp_path)
    rows = gather(load_e2e(name, tmp_path, cache_dir=tmp_path / "cache"))
    assert sorted(rows) == list(range(len(images)))
    for number, image in enumerate(images):
        row = rows[number]
        assert np.array_equal(sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape), image)
        for column in {*row} - {"pixel_index", "pixel_value", "event_id"}:
            assert row[column] == (np.float32(expected[column][number]) if column in expected else None), column


def test_every_entry_is_complete_and_comes_back_from_its_own_record():
    written = {"simulated", "particles", *(kind.split()[0] for kind in KINDS), *(name for name, *_ in LAYOUTS)}
    assert set(SCHEMAS) == written | {"ntuple_photons", *DATA_SETS}, "each schema has a writer"
    for name, variants in SCHEMAS.items():
        for schema in variants:
            assert schema.name == name
            assert schema.source
            assert schema.licence
            assert schema.has_physical_units == (schema.normalisation == "physical")
            assert parse_schema(name, schema.to_dict(), "here") == (schema,)
            assert all(schema.channel(channel).unit for channel in schema.channel_names)
            # none of us has seen the public files
            assert schema.inferred or name in ("simulated", "particles")
        # two versions of a data set must differ in something visible in a file
        shown = {
            (v.format, v.image_shape, v.channels_last, str(v.columns), str(v.extra), str(v.own_split))
            for v in variants
        }
        assert len(shown) == len(variants)


def test_the_schema_travels_with_the_data_set(tmp_path):
    write_public("tau_mass hdf5", tmp_path)
    info = load_e2e("tau_mass", tmp_path, cache_dir=tmp_path / "cache")["train"].info
    for word in ("trk_dz_sig [σ]", "125 x 125 pixels, physical", "generator mass of a", "not verified", "taudR"):
        assert word in info.description
    assert info.license == "not public"


CUSTOM = HDF5_SCHEMA | {
    "image_size": [280, 360],
    "columns": {"image": "events", "labels": {"keys": "truth", "one_hot": [0, 1]}, "event_id": "run"},
    "labels": {"no": "background", "yes": "signal"},
    "tower_blocks": True,
}


def write_custom(folder, number=6, **changes):
    """A user's own file: whole-detector images, one-hot labels, two rows per event."""
    rng = np.random.default_rng(0)
    images = rng.exponential(2, (number, 2, 280, 360)).astype(np.float32) * (rng.random((number, 2, 280, 360)) < 0.01)
    images[:, 1] = np.kron(images[:, 1, ::5, ::5], np.ones((5, 5), np.float32))
    truth = np.eye(2)[np.arange(number) % 2]
    run = [f"event {row // 2}" for row in range(number)]
    write_hdf5(folder / "mine.h5", {"events": images, "truth": truth, "run": run} | changes, "")
    (folder / "mine.yaml").write_text(yaml.safe_dump(CUSTOM))
    return images


def test_custom_files(tmp_path):
    images = write_custom(tmp_path)
    dataset = load_e2e("custom", tmp_path, schema=tmp_path / "mine.yaml", cache_dir=tmp_path / "cache")
    rows = [row for part in dataset.values() for row in part]
    assert dataset["train"].features["labels"].names == ["no", "yes"]
    assert sorted(row["event_id"] for row in rows) == [f"event {row // 2}" for row in range(6)]
    found = {(row["event_id"], row["labels"]): row for row in rows}
    for number, image in enumerate(images):
        row = found[f"event {number // 2}", number % 2]
        assert np.array_equal(sparse_to_dense(row["pixel_index"], row["pixel_value"], (2, 280, 360)), image)
    parts = [{row["event_id"] for row in part} for part in dataset.values()]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_rows_known_to_be_bad_are_left_out(tmp_path):
    write_custom(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CUSTOM | {"bad_rows": {"mine.h5": [[1, 2], [5, 5]]}}))
    dataset = load_e2e("custom", tmp_path, schema=tmp_path / "mine.yaml", cache_dir=tmp_path / "cache")
    events = sorted((row["event_id"], row["labels"]) for part in dataset.values() for row in part)
    assert events == [("event 0", 0), ("event 1", 1), ("event 2", 0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ["ecal"]}, "unknown field `channels`; did you mean new_channels or"),
        ({"format": "tfrecord"}, "`format`: .* 'npz', 'root' or 'colliderml', got 'tfrecord'"),
        ({"channel_names": ["ecal", "muon"]}, "muon is neither in `new_channels` nor a known channel"),
        ({"channel_names": ["ecal", "ecal"]}, "distinct"),
        ({"columns": {"image": "x", "mass": "m"}}, "`columns` has mass, but rows have image, labels, mass_labels"),
        ({"columns": {"labels": "y"}}, "does not say where the `image` is"),
        (
            {"columns": {"image": "x", "labels": {"keys": "y", "one_hot": [1, 2, 3]}}},
            "3 one-hot columns for 2 classes",
        ),
        ({"columns": {"image": {"axis": 3}}}, "unknown field `columns.image.axis`; known fields: keys, column"),
        ({"channels_last": "yes"}, "`channels_last`: input should be a valid boolean, got 'yes'"),
        (
            {"normalisation": "standardised"},
            "`normalisation`: input should be 'physical', 'max_scaled_255' or 'scaled'",
        ),
        ({"mass_range": [5, 1]}, "`mass_range` is a smaller and a larger number"),
        ({"optional": ["pt"]}, "`optional` has pt, which `columns` lacks"),
        ({"extra": {"pt": "pt"}}, "`extra` has pt, which rows have anyway"),
        ({"own_split": {"dev": "*"}}, "`own_split` has the key 'dev': input should be 'train'"),
        ({"variants": "none"}, "`variants` is a list"),
        ({"labels": {False: "background", "yes": "signal"}}, "`labels` has the key False: .*put quotes around it"),
        ({"image_size": [280, 0]}, r"`image_size\.1`: input should be greater than 0, got 0"),
        ({"columns": {"image": {"keys": "x", "stack": ["a"]}}}, "`image` needs either `keys` or `stack`"),
    ],
)
def test_bad_schemas(changes, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(CUSTOM | changes))
    with pytest.raises(ValueError, match=f"mine.yaml: .*{message}"):
        read_schema(path)


def test_files_that_are_not_schemas(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(ValueError, match="There is no schema file"):
        read_schema(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not YAML"):
        read_schema(path)
    path.write_text("- a list")
    with pytest.raises(ValueError, match="expected `key: value` pairs, got a list"):
        read_schema(path)
    path.write_text("source: here")
    with pytest.raises(
        ValueError, match="the field `description` is missing; the field `licence` is missing; the field `format` is"
    ):
        read_schema(path)
    with pytest.raises(ValueError, match="needs `schema`, a YAML file"):
        load_e2e("custom", tmp_path)
    with pytest.raises(ValueError, match="'labelled' has its own schema"):
        load_e2e("labelled", tmp_path, schema=path)


def test_versions_are_told_apart_by_what_files_hold(tmp_path):
    write_public("quark_gluon hdf5", tmp_path)
    assert find_schema("quark_gluon", tmp_path).variant == "hdf5"
    write_public("quark_gluon parquet", tmp_path)
    with pytest.raises(ValueError, match=r"fits no single version .*\(parquet, hdf5 at once; choose one with a"):
        find_schema("quark_gluon", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    write_parquet(other / "five.parquet", {"X_jet": jets("tau_mass", 2)[:, :5], "m": np.full(2, 170.0)})
    with pytest.raises(ValueError, match=r"8 channels: expected images of shape \(8, 125, 125\).*got \(5, 125, 125\)"):
        find_schema("top_mass", other)


def test_ambiguous_keys(tmp_path):
    images = jets("top_mass", 2)
    write_parquet(tmp_path / "a.parquet", {"X_jet": images, "X_jets": images, "m": np.full(2, 170.0)})
    with pytest.raises(ValueError, match="both 'X_jet', 'X_jets' could be image"):
        load_e2e("top_mass", tmp_path)


def test_second_images_are_not_read(tmp_path):
    """The files for super-resolution have the same jets with fewer pixels, too."""
    images, low = jets("quark_gluon", 4), np.ones((4, 3, 64, 64), np.float32)
    columns = {
        "X_jets_LR": low,
        "X_jets": images,
        "pt": np.full(4, 90.0),
        "m0": np.full(4, 9.0),
        "y": np.arange(4) % 2,
    }
    write_parquet(tmp_path / "QCDToGGQQ_IMGjet_RH1all_jet0_run0_n36272_LR.parquet", columns)
    rows = gather(load_e2e("quark_gluon", tmp_path, cache_dir=tmp_path / "cache"))
    for number, image in enumerate(images):
        assert np.array_equal(
            sparse_to_dense(rows[number]["pixel_index"], rows[number]["pixel_value"], (3, 125, 125)), image
        )


def labelled_with(change, folder):
    """Load a file of the linear-ViT task with changed images; return what is logged and raised."""
    images = change(max_scaled(jets("labelled", 8)))
    columns = {"jet": np.ascontiguousarray(np.moveaxis(images, 1, -1)), "Y": np.arange(8) % 2}
    write_hdf5(folder / "set.h5", columns, "")
    return load_e2e("labelled", folder, cache_dir=folder / "cache")


def shifted_towers(images):
    images[:, 4] = np.roll(images[:, 4], 2, axis=2)
    return images


def negative_energy(images):
    images[0, 3, 60, 60] = -7
    return images


def without_a_layer(images):
    images[:, 7] = 0
    return images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images, r"max-scaled: absolute energies are lost \(100% of 64 images of a channel"),
        (lambda images: images / 3, "the schema says that this file is max-scaled, but 0% of 64 images"),
        (shifted_towers, r"only .*% of the HCAL towers are 5 x 5 equal pixels"),
        (negative_energy, r"0.0.* of the values of ecal are negative \(least -7\)"),
        (without_a_layer, "channel bpix3 is empty in all 8 rows"),
    ],
)
def test_soft_mismatches_are_one_warning_with_numbers(change, message, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="e2evit"):
        labelled_with(change, tmp_path)
        found = [record.getMessage() for record in caplog.records]
        assert len([text for text in found if re.search(message, text)]) == 1
        load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache")
        assert len(caplog.records) == len(found), "warned again of what is in the cache"


def test_files_that_lost_their_units_are_refused_where_units_are_promised(tmp_path):
    images = max_scaled(jets("top_mass", 8))
    write_parquet(tmp_path / "a.parquet", {"X_jet": images, "m": np.full(8, 170.0)})
    with pytest.raises(ValueError, match=r"max-scaled: absolute energies are lost .*but the schema 'top_mass' says"):
        load_e2e("top_mass", tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.abs, "channel trk_dz is signed, but none of .* values is negative"),
        (lambda images: images[:, [0, 2, 1, 3, 4, 5, 6, 7]], r"trk_d0 is wider than trk_dz \(90 %.*swapped\?"),
    ],
)
def test_signed_channels_are_looked_at(change, message, tmp_path, caplog):
    write_parquet(tmp_path / "a.parquet", {"X_jet": change(jets("top_mass", 8)), "m": np.full(8, 170.0)})
    load_e2e("top_mass", tmp_path, cache_dir=tmp_path / "cache")
    assert re.search(message, caplog.text)


WRONG = {
    "type": (lambda c: c | {"pT": np.array(["high"] * 8, dtype="S4")}, r"`pT` \(pt\) holds text, not numbers"),
    "name": (
        lambda c: c | {"Y": np.array(["top"] * 7 + ["up"], dtype="S3")},
        "row 7: the label 'up' as `Y`; known .* top",
    ),
    "matrix": (
        lambda c: c | {"Y": np.zeros((8, 2))},
        r"`Y` \(labels\) has shape \(8, 2\), expected one number for each row",
    ),
    "scalar": (lambda c: c | {"Y": np.float32(1)}, r"`Y` \(labels\) is a single number"),
    "infinite pT": (lambda c: c | {"m": np.full(8, 80.0), "pT": np.r_[np.zeros(7), np.inf]}, "row 7: inf as `pT`"),
    "overflow": (lambda c: c | {"jet": c["jet"].astype(float) * 1e300}, "rows 0-7: NaN or infinite .* trk_pt"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_columns(kind, tmp_path):
    change, message = WRONG[kind]
    images = np.moveaxis(max_scaled(jets("labelled", 8)), 1, -1)
    write_hdf5(tmp_path / "set.h5", change({"jet": images, "Y": np.arange(8) % 2}), "")
    with pytest.raises(FileError, match=rf"set\.h5.*{message}"):
        load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache")


def test_null_and_ragged_images_are_named(tmp_path):
    columns = {"X_jet": jets("top_mass", 6).tolist(), "m": [170.0] * 6}
    columns["X_jet"][2] = None
    columns["X_jet"][4][3][7].pop()
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    schema = find_schema("top_mass", tmp_path)
    bad = []
    (piece,) = list_pieces(str(tmp_path / "a.parquet"), "a.parquet", schema, 1000)
    rows = pa.concat_tables(read_rows(piece, schema, bad.append))
    assert rows["event_id"].to_pylist() == [f"a.parquet:{row}" for row in (0, 1, 3, 5)]
    assert [(found.first, found.last) for found in bad] == [(2, 2), (4, 4)]
    assert "`X_jet` is null" in bad[0].reason
    assert "not have the shape (8, 125, 125)" in bad[1].reason


def test_files_without_rows(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["jet"], file["Y"] = np.zeros((0, 125, 125, 8), np.float32), np.zeros((0, 1), np.float32)
    with pytest.raises(ValueError, match="hold no rows"):
        load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache")
    (tmp_path / "set.h5").write_bytes(b"")
    with pytest.raises(FileError, match=r"set\.h5: not a readable HDF5 file"):
        load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache")


def test_the_real_image(tmp_path):
    """Recovered from published figures of CMS's boosted-top sample: only its own schema reads it."""
    with np.load(REAL_IMAGE / "boostedtop_image_uint8.npz") as file:
        np.savez_compressed(tmp_path / "real.npz", X=file["X"][None])
    dataset = load_e2e("custom", tmp_path, schema=REAL_IMAGE / "schema.yaml", cache_dir=tmp_path / "cache")
    (row,) = [row for part in dataset.values() for row in part]
    image = sparse_to_dense(row["pixel_index"], row["pixel_value"], (8, 125, 125))
    counts = np.count_nonzero(image, axis=(1, 2))
    assert counts.tolist() == [54, 24, 26, 391, 1050, 99, 104, 85]  # the publisher's counts
    assert 1 - counts.sum() / image.size == pytest.approx(0.9853, abs=1e-4)
    blocks = image[4].reshape(25, 5, 25, 5).swapaxes(1, 2).reshape(625, 25)
    assert (blocks == blocks[:, :1]).all()
    boosted_top = replace(
        SCHEMAS["boosted_top"][0], labels={}, columns={"image": SCHEMAS["boosted_top"][0].columns["image"]}
    )
    write_parquet(tmp_path / "real.parquet", {"X_jets": np.moveaxis(image, 0, -1)[None]})
    with pytest.raises(FileError, match=r"max-scaled: absolute energies are lost \(100% of 8 images"):
        load_e2e("custom", tmp_path, schema=boosted_top, cache_dir=tmp_path / "cache")


def test_rows_name_their_data_set(simulated_jets):
    for name in ("custom", "top_mass", "labelled"):
        with pytest.raises(ValueError, match=f"holds the data set 'simulated', not '{name}'"):
            find_schema(name, simulated_jets)
    lines, survey, schema = inspect_file(simulated_jets / "top-00000-20.parquet")
    assert (schema.name, schema.label_names) == ("simulated", ("top",))
    assert survey.labels == {"top": 20}
    assert not [line for line in lines if line.startswith(("ERROR", "WARNING"))]


def test_inspect(tmp_path):
    write_public("tau_mass hdf5", tmp_path, 20)
    lines, survey, schema = inspect_file(tmp_path / "aToTauTau.h5")
    text = "\n".join(lines)
    assert len(lines) < 45
    assert schema.name == "tau_mass"
    assert "all_jet             (20, 13, 125, 125)" in text
    assert "HCAL towers of 5 x 5 equal pixels: 100.0%" in text
    assert "mass_labels: " in text
    assert survey.sampled == 20
    assert survey.means["all"].shape == (13, 125, 125)
    occupancy = survey.values["ecal"].size / (20 * 125 * 125)
    assert f"{occupancy:.3%}" in next(line for line in lines if line.startswith("ecal"))
    lines, survey, _ = inspect_file(tmp_path / "aToTauTau.h5", "labelled")
    assert survey is None
    assert "  labelled: missing key 'jet', 'Y'; the file has" in "\n".join(lines)
    page = tmp_path / "page.h5"
    page.write_text("<!DOCTYPE html><html>Please log in")
    with pytest.raises(FileError, match=r"is a web page: the link .* has expired"):
        inspect_file(page)
    page.write_text("text")
    with pytest.raises(FileError, match="neither HDF5, Parquet, npz nor ROOT"):
        inspect_file(page)
