"""ColliderML's tables: joined by event whatever the files look like, and what is refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from colliderml_files import FILE, Event, rows_of, ttbar, write

from e2evit.data import SCHEMAS, event_tables, load_e2e
from e2evit.data.files import list_pieces
from e2evit.data.formats import FileError
from e2evit.data.prepare import prepare


def test_events_are_joined_by_their_number(tmp_path):
    events = {number: ttbar(number) for number in (4, 2, 9, 7)}
    write(tmp_path / "plain", "ttbar_pu0", events)
    plain = rows_of(tmp_path / "plain")
    assert [row["event_id"] for row in plain[::3]] == [f"ttbar_pu0:{number}" for number in events]
    assert len({row["pt"] for row in plain[2::3]}) == 4
    order = {"calo_hits": [9, 7, 2, 4], "tracks": [7, 4, 9, 2], "tracker_hits": [2, 9, 4, 7]}
    for group in (1, 3, None):
        write(tmp_path / f"{group}", "ttbar_pu0", events, order=order, group=group)
        assert rows_of(tmp_path / f"{group}") == plain
    # another sample with the same numbers, and other folders
    write(tmp_path / "plain", "ggf_pu0", {number: Event() for number in events}, joined=False)
    assert rows_of(tmp_path / "plain") == plain
    folder = write(tmp_path / "nested", "ttbar_pu0", events, joined=False)
    rows = [row for part in load_e2e("colliderml", folder, cache_dir=tmp_path / "cache").values() for row in part]
    assert sorted(row["event_id"] for row in rows) == sorted(row["event_id"] for row in plain)


def test_shards_of_other_names(tmp_path):
    events = {number: ttbar(number) for number in (1, 2, 3)}
    plain = rows_of(write(tmp_path / "plain", "ttbar_pu0", events))
    raw = write(tmp_path / "raw", "ttbar_pu0", events)
    cells = raw / "ttbar_pu0_calo_hits"
    table = pq.read_table(cells / FILE)
    pq.write_table(table.slice(0, 1), cells / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(1), cells / "train-00001-of-00002.parquet")
    (cells / FILE).unlink()
    assert rows_of(raw) == plain
    pq.write_table(table.slice(0, 2), cells / "train-00000-of-00002.parquet")
    with pytest.raises(FileError, match=r"row 1: event 2: it is in .*00000-of-00002.* and .*00001-of-00002"):
        rows_of(raw)


def test_files_that_the_rows_of_a_file_are_made_of(tmp_path):
    """Those of its name, and all of a table whose file of that name lacks one of its events."""
    for shard, first in (("a.parquet", 0), ("b.parquet", 10)):
        events = {first + number: ttbar(first + number) for number in range(2)}
        lacking = {"tracks": [1]} if shard == "a.parquet" else {}
        write(tmp_path, "ttbar_pu0", events, shard, lacking=lacking)
    joined = {
        shard: {path.removeprefix(f"{tmp_path}/ttbar_pu0_") for path in event_tables.joined_files(path)}
        for shard in ("a.parquet", "b.parquet")
        for path in [f"{tmp_path}/ttbar_pu0_particles/{shard}"]
    }
    named = {f"{table}/{{}}.parquet" for table in ("calo_hits", "tracker_hits", "tracks")}
    assert joined["b.parquet"] == {name.format("b") for name in named}
    assert joined["a.parquet"] == {name.format("a") for name in named} | {"tracks/b.parquet"}


def test_events_that_cannot_be_used(tmp_path):
    events = {number: ttbar(number) for number in range(8)}
    events[2].tables["tracks"]["qop"][0] = 0.0
    events[3].tables["calo_hits"]["detector"][0] = 255
    events[4].tables["tracks"]["z0"].append(1.0)
    events[5].tables["tracker_hits"]["x"][0] = float("nan")
    events[6].tables["particles"]["px"][0] = None
    events[7].tables["particles"]["vertex_primary"] = [2] * len(events[7].tables["particles"]["px"])
    write(tmp_path, "ttbar_pu0", events, lacking={"tracks": [1]})
    folder, bad = tmp_path / "ttbar_pu0_tracks", []
    with pytest.raises(FileError, match=rf"{FILE}, row 1: event 1: it is in none of the 1 files of {folder}\. Fix"):
        rows_of(tmp_path)
    assert {row["event_id"] for row in rows_of(tmp_path, on_bad_rows=bad.append)} == {"ttbar_pu0:0"}
    assert [rows.reason.partition(": ")[2] for rows in bad] == [
        f"it is in none of the 1 files of {folder}",
        "`qop` of a track is 0, so it has no momentum",
        "`detector` of a cell is 255, expected one of 9, 10, 11, 12, 13, 14",
        "1 entries in `d0` and 2 in `z0` of tracks",
        "NaN or infinity in `x` of tracker_hits",
        "a null in `px` of particles",
        "no particle is `primary` and of `vertex_primary` 1, the hard collision",
    ]


def test_files_that_do_not_fit(tmp_path):
    raw = write(tmp_path, "ttbar_pu0", {1: ttbar()})
    particles, cells = raw / f"ttbar_pu0_particles/{FILE}", raw / f"ttbar_pu0_calo_hits/{FILE}"

    def refused(message, path=particles):
        with pytest.raises(FileError, match=message) as caught:
            list_pieces(str(path), path.name, SCHEMAS["colliderml"][0], 1000)
        assert "\n" not in str(caught.value)

    refused("its folder is ttbar_pu0_calo_hits, expected SAMPLE_particles", cells)
    table = pq.read_table(cells)
    pq.write_table(table.drop_columns("total_energy"), cells)
    refused("does not fit the data set 'colliderml': calo_hits lacks the column total_energy")
    pq.write_table(table.set_column(0, "event_id", table["x"]), cells)
    refused(r"`event_id` of calo_hits is list<.*>, expected the number of the event")
    pq.write_table(table.set_column(4, "y", table["event_id"]), cells)
    refused("`y` of calo_hits is uint32, expected a list of numbers for each event")
    cells.write_bytes(particles.read_bytes()[:200])
    refused(f"{cells}: not a readable Parquet file")
    cells.unlink()
    refused("ttbar_pu0_calo_hits: no Parquet files, but the events of .* need this table")
    pq.write_table(table, cells)
    again = pq.read_table(particles)
    pq.write_table(again.take([0, 0]), particles)
    with pytest.raises(FileError, match="event 1 is in the rows 0 and 1: cannot tell which to join"):
        rows_of(raw)
    particles.unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*\*/\*particles/\*\.parquet in .* Source: https://hugg"):
        prepare("colliderml", raw, tmp_path / "out")


def test_a_damaged_row_group_costs_its_events(tmp_path):
    raw = write(tmp_path, "ttbar_pu0", {number: ttbar(number) for number in range(3)}, group=1)
    cells = raw / f"ttbar_pu0_calo_hits/{FILE}"
    data, chunk = bytearray(cells.read_bytes()), pq.ParquetFile(cells).metadata.row_group(1).column(2)
    data[chunk.data_page_offset : chunk.data_page_offset + 40] = b"\xff" * 40
    cells.write_bytes(data)
    bad = []
    rows = rows_of(raw, on_bad_rows=bad.append)
    assert {row["event_id"] for row in rows} == {"ttbar_pu0:0", "ttbar_pu0:2"}
    assert [(one.first, one.last) for one in bad] == [(1, 1)]
    assert "event 1: it cannot be read from" in bad[0].reason


def test_events_read_a_few_at_a_time_are_the_same(tmp_path, monkeypatch):
    raw = write(tmp_path, "ttbar_pu0", {number: ttbar(number) for number in range(5)})
    plain = rows_of(raw)
    monkeypatch.setattr(event_tables, "EVENTS", 1)
    monkeypatch.setattr("e2evit.data.colliderml.EVENTS_AT_ONCE", 2)
    assert rows_of(raw) == plain


def test_a_number_of_two_events_is_not_joined_across_files(tmp_path):
    for shard, lacking in (("a.parquet", {}), ("b.parquet", {"calo_hits": [1]})):
        write(tmp_path, "ttbar_pu0", {number: ttbar(number) for number in range(2)}, shard, lacking=lacking)
    with pytest.raises(FileError, match=r"event 1: .*particles/a\.parquet has one of that number, too: cannot tell"):
        rows_of(tmp_path, shard="b.parquet")


@pytest.mark.parametrize(
    ("table", "column", "kind", "expected"),
    [
        ("particles", "primary", pa.float32(), "true or false"),
        ("calo_hits", "detector", pa.float32(), "whole numbers"),
        ("particles", "pdg_id", pa.float64(), "whole numbers"),
        ("tracks", "qop", pa.bool_(), "numbers"),
    ],
)
def test_types_of_columns(table, column, kind, expected, tmp_path):
    folder = write(tmp_path, "ttbar_pu0", {0: ttbar(0)})
    path = folder / f"ttbar_pu0_{table}" / FILE
    held = pq.read_table(path)
    values = [[kind.to_pandas_dtype()(value) for value in event] for event in held[column].to_pylist()]
    pq.write_table(held.set_column(held.column_names.index(column), column, pa.array(values, pa.list_(kind))), path)
    with pytest.raises(FileError, match=rf"`{column}` of {table} is list<.*>, expected a list of {expected} for each"):
        rows_of(tmp_path)


def test_primary_as_numbers(tmp_path):
    folder = write(tmp_path, "ttbar_pu0", {0: ttbar(0)})
    plain, path = rows_of(tmp_path), folder / "ttbar_pu0_particles" / FILE
    held = pq.read_table(path)
    values = pa.array([[int(value) for value in event] for event in held["primary"].to_pylist()], pa.list_(pa.uint8()))
    pq.write_table(held.set_column(held.column_names.index("primary"), "primary", values), path)
    assert rows_of(tmp_path) == plain
