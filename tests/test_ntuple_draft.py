"""ROOT files with names of their own: draft a schema, and prepare their rows with the draft."""

import re
from dataclasses import replace

import numpy as np
import pytest
import uproot
from ntuple_files import events, expected, rows_of, variant, write
from test_ntuples import RNTUPLE, VECTORS, compare

from e2evit import load_e2e
from e2evit.cli.command import run
from e2evit.data.draft import draft_schema
from e2evit.data.formats import FileError
from e2evit.data.inspect import inspect_file
from e2evit.data.schema import read_schema
from e2evit.data.sparse import sparse_to_dense

OTHER_NAMES = {
    "ECAL_tracksPt_atECALfixIP": "tracks",
    "ECAL_tracksDzSig_atECALfixIP": "dz",
    "ECAL_tracksD0Sig_atECALfixIP": "d0",
    "ECAL_energy": "crystals",
    "HBHE_energy": "towers",
    "jetSeed_ieta": "seed_ieta",
    "jetSeed_iphi": "seed_iphi",
    "a_m": "mass",
    "jetM": "jet_mass",
    "jetPt": "pt",
    "a_pt": "gen_pt",
    "runId": "run",
    "lumiId": "lumi",
    "eventId": "event",
}


def renamed(branches):
    return {OTHER_NAMES.get(key, key): values for key, values in branches.items()}


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_a_file_with_other_names_is_prepared_with_its_draft(kind, tmp_path, capsys):
    schema = variant("ntuple_5", "a to tau tau")
    branches = events(schema, (2, 0, 1, 3))
    hits = {"hits": [np.ones(number) for number in (5, 1, 2, 9)]}
    path = write(tmp_path / "raw/own.root", renamed(branches) | hits, "Jets", kind=kind)
    draft, figure = tmp_path / "own.yaml", tmp_path / "own.png"
    run("inspect", [str(path), "--schema_out", str(draft), "--figure", str(figure)])
    told = capsys.readouterr().out
    assert f"Draft a schema for it: e2evit inspect {path} --schema_out my.yaml" in told
    assert f"Draft schema: {draft}" in told
    (own,) = read_schema(draft)
    assert (own.tree, own.one_row, own.image_size) == ("Jets", "jet", (125, 125))
    keys = ["tracks", "dz", "d0", "crystals", "towers"]
    keys = keys if kind == "TTree" else sorted(keys)  # as uproot writes them
    assert list(own.branches.values()) == keys
    assert own.channel_names == tuple(f"channel_{number}" for number in range(1, 6))
    assert {key for name, key in own.branches.items() if own.channel(name).signed} == {"dz", "d0"}
    assert own.columns["event_id"].stack == ("run", "lumi", "event")
    text = draft.read_text()
    assert re.search('# extra: {("gen_pt": "gen_pt"|"TaudR": "TaudR"|, )+}', text)
    assert "# lists of other lengths: hits" in text
    assert ': "towers"  # 56 x 72 towers' in text
    assert inspect_file(path, schema=draft)[2] == own
    # what is marked is filled in
    names = {OTHER_NAMES[key]: name for name, key in schema.branches.items()}
    for channel, key in own.branches.items():
        text = re.sub(rf'(?m)^  {channel}: "', f'  {names[key]}: "', text)
        text = re.sub(rf"(?m)^  {channel}: {{.*\n", "", text)
    draft.write_text(text.replace("new_channels:\n", "").replace("# extra:", "extra:"))
    arguments = ["custom", "--schema", str(draft), "--data_dir", str(tmp_path / "raw"), "--output_dir"]
    run("prepare", [*arguments, str(tmp_path / "out")])
    loaded = load_e2e("custom", tmp_path / "out", cache_dir=tmp_path / "cache")
    rows = [row for part in loaded.values() for row in part]
    wanted = [row | {"gen_pt": row.pop("apt"), "TaudR": row.pop("taudR")} for row in expected(schema, branches)]
    key = lambda row: (row["event_id"], row["ieta"], row["iphi"], row["gen_pt"])  # noqa: E731
    order = [list(schema.branches).index(names[key]) for key in keys]
    wanted = [row | {"image": row["image"][order]} for row in wanted]
    compare(sorted(rows, key=key), sorted(wanted, key=key), schema)


def test_events_and_their_classes(tmp_path):
    """Without seed towers a row is an event; lists of one number belong to it."""
    branches = events(variant("ntuple_events_8"), (1, 1, 1))
    ones = {"y": [np.float32([n % 2]) for n in range(3)], "target": [np.float32([7])] * 3, "pt": [np.ones(2)] * 3}
    path = write(tmp_path / "own.root", {key: branches[key] for key in branches if key != "eventId"} | ones)
    (tmp_path / "own.yaml").write_text(draft_schema(path))
    (own,) = read_schema(tmp_path / "own.yaml")
    assert (own.one_row, own.channel_names, own.label_names) == (
        "event",
        variant("ntuple_events_8").channel_names,
        ("class_0", "class_1"),
    )
    assert not own.resample_endcaps
    assert {"# lists of other lengths: pt", "  # event_id: {stack: [RUN, LUMI, EVENT]}"} <= {
        line.partition("  # without")[0] for line in (tmp_path / "own.yaml").read_text().splitlines()
    }
    rows = rows_of(path, own)
    assert [row["labels"] for row in rows] == [0, 1, 0]
    for row, want in zip(rows, expected(replace(variant("ntuple_events_8"), resample_endcaps=False), branches)):
        image = sparse_to_dense(row["pixel_index"], row["pixel_value"], own.image_shape)
        assert np.array_equal(image, want["image"])


@pytest.mark.parametrize("path", [VECTORS, RNTUPLE], ids=lambda path: path.stem)
def test_names_that_are_known_are_used(path, tmp_path):
    (tmp_path / "own.yaml").write_text(draft_schema(path))
    (own,) = read_schema(tmp_path / "own.yaml")
    assert own.branches == variant("ntuple_5").branches
    assert len(rows_of(path, own)) == 3


def test_crops(tmp_path):
    schema = variant("ntuple_photons")
    branches = events(schema, (0, 2, 1))
    path = write(tmp_path / "own.root", branches, kind="RNTuple")
    (tmp_path / "own.yaml").write_text(draft_schema(path))
    (own,) = read_schema(tmp_path / "own.yaml")
    assert (own.one_row, own.image_size, own.branches) == ("crop", (32, 32), schema.branches)
    assert own.new_channels == schema.new_channels
    wanted = rows_of(path, schema)
    rows = rows_of(path, own)
    assert [(row["event_id"], row["pixel_index"]) for row in rows] == [
        (row["event_id"], row["pixel_index"]) for row in wanted
    ]


def test_lists_by_particle_and_second_branches_of_a_channel(tmp_path):
    """Crystals of two reconstructions, and masses of generated particles."""
    plain, aod = (variant(name, "a in Run 3 with AOD and miniAOD") for name in ("ntuple_5", "ntuple_5_aod"))
    branches = events(plain, (1, 2)) | events(aod, (1, 2))
    path = write(tmp_path / "own.root", branches)
    text = draft_schema(path)
    (tmp_path / "own.yaml").write_text(text)
    (own,) = read_schema(tmp_path / "own.yaml")
    assert own.columns["mass_labels"] == plain.columns["mass_labels"]
    assert own.branches["ecal"] == "ECAL_energy"
    assert {"ECAL_energy_AOD", "HBHE_energy_AOD"} <= {key for name, key in own.branches.items() if "channel" in name}


def test_files_that_get_no_draft(tmp_path):
    path = write(tmp_path / "own.root", {"x": [np.ones(5)]})
    with pytest.raises(FileError, match=r"own\.root: no tree has images in its branches, 280 x 360 crystals or"):
        draft_schema(path)
    schema = variant("ntuple_photons")
    crops = {key: events(schema, (2,))[key] for key in schema.branches.values()}
    with pytest.raises(FileError, match="no schema can be drafted: no column lists the crops of an event"):
        draft_schema(write(tmp_path / "own.root", crops, kind="RNTuple"))
    with uproot.recreate(path) as file:
        file["h"] = np.histogram([1.0])
    with pytest.raises(FileError, match="no tree has images"):
        draft_schema(path)
