"""Streams yield every row once, in a seeded order, across nodes, and resume at the very next row."""

import functools
import http.server
import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets.distributed import split_dataset_by_node
from public_files import write_public
from samples import row_table
from torch.utils.data import DataLoader

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import builder, find_schema
from e2evit.data.sparse import COLUMN_ENCODINGS
from e2evit.training.collate import E2ECollator


@pytest.fixture(scope="module")
def rows_dir(tmp_path_factory):
    """400 jets in four files, row groups of 10."""
    folder = tmp_path_factory.mktemp("rows")
    for part in range(4):
        table = row_table(100, seed=part)
        pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=10, **COLUMN_ENCODINGS)
    return folder


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(builder, "PIECE_ROWS", 10)
    monkeypatch.setattr(builder, "PIECES_AT_ONCE", 4)


def stream(folder, split="train", **options):
    return load_e2e("simulated", folder, split=split, streaming=True, **options)


def events(rows) -> list[str]:
    return [row["event_id"] for row in rows]


def test_streams_hold_what_the_cache_holds(rows_dir, tmp_path):
    cached = load_e2e("simulated", rows_dir, cache_dir=tmp_path / "cache")
    streamed = load_e2e("simulated", rows_dir, streaming=True)
    assert list(streamed) == list(cached)
    for split in cached:
        assert streamed[split].features == cached[split].features
        assert list(streamed[split]) == list(cached[split])


def test_shuffling_is_seeded_and_exact(rows_dir):
    in_order = events(stream(rows_dir))
    first, again, other = (events(stream(rows_dir, shuffle_seed=seed)) for seed in (3, 3, (3, 1)))
    assert first == again
    assert sorted(first) == sorted(in_order)
    assert sorted(other) == sorted(in_order)
    assert len({*map(tuple, (in_order, first, other))}) == 3
    # neighbours come from all parts of the data set
    files = [event.split("-")[1] for event in first]
    assert sum(a != b for a, b in itertools.pairwise(files)) > 0.5 * len(files)
    with pytest.raises(ValueError, match="`shuffle_seed` needs `streaming=True`"):
        load_e2e("simulated", rows_dir, shuffle_seed=1)


@pytest.mark.parametrize("shuffle_seed", [None, 5], ids=["in order", "shuffled"])
@pytest.mark.parametrize("taken", [1, 33, 137])
def test_a_stream_resumes_at_the_very_next_row(rows_dir, shuffle_seed, taken):
    whole = events(stream(rows_dir, shuffle_seed=shuffle_seed))
    interrupted = stream(rows_dir, shuffle_seed=shuffle_seed)
    before = events(itertools.islice(interrupted, taken))
    state = interrupted.state_dict()
    resumed = stream(rows_dir, shuffle_seed=shuffle_seed)
    resumed.load_state_dict(state)
    assert before + events(resumed) == whole


def test_batches_resume_too(rows_dir):
    def batches(rows):
        return DataLoader(rows, batch_size=16, collate_fn=lambda tables: tables)

    def ids(tables):
        return [event for table in tables for event in table["event_id"].to_pylist()]

    whole = [ids(batch) for batch in batches(stream(rows_dir, shuffle_seed=1).with_format("arrow"))]
    interrupted = stream(rows_dir, shuffle_seed=1).with_format("arrow")
    before = [ids(batch) for batch in itertools.islice(batches(interrupted), 7)]
    resumed = stream(rows_dir, shuffle_seed=1).with_format("arrow")
    resumed.load_state_dict(interrupted.state_dict())
    assert before + [ids(batch) for batch in batches(resumed)] == whole


def test_nodes_share_a_stream(rows_dir):
    whole = events(stream(rows_dir))
    for nodes in (2, 3):
        parts = [events(split_dataset_by_node(stream(rows_dir, shuffle_seed=2), i, nodes)) for i in range(nodes)]
        assert all(parts)
        assert sorted(itertools.chain(*parts)) == sorted(whole)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a process of the test suite may have one core
def test_workers_share_a_stream(rows_dir):
    loader = DataLoader(stream(rows_dir, shuffle_seed=2), batch_size=None, num_workers=2)
    assert sorted(events(loader)) == sorted(events(stream(rows_dir)))


def test_streamed_tables_make_batches(rows_dir):
    collator = E2ECollator(E2EImageProcessor(find_schema("simulated").channel_names), "jet_mass")
    loader = DataLoader(stream(rows_dir).with_format("arrow"), batch_size=16, collate_fn=collator)
    batch = next(iter(loader))
    assert batch["pixel_values"].shape == (16, 8, 125, 125)
    assert batch["mass_labels"].isfinite().all()


@pytest.mark.parametrize("kind", ["labelled with mass", "quark_gluon parquet", "tau_mass hdf5"])
def test_public_files_stream(kind, tmp_path):
    name, _, _ = write_public(kind, tmp_path, 30)
    cached = load_e2e(name, tmp_path, cache_dir=tmp_path / "cache", fold=1, num_folds=3)
    streamed = load_e2e(name, tmp_path, streaming=True, fold=1, num_folds=3)
    for split in cached:
        assert sorted(events(streamed[split])) == sorted(cached[split]["event_id"])


def test_an_address_works_like_a_folder(rows_dir, tmp_path):
    """Over HTTP, reading ranges on demand: for a data set larger than the disk."""
    write_public("quark_gluon hdf5", tmp_path, 20)
    for name, folder in (("simulated", rows_dir), ("quark_gluon", tmp_path)):
        handler = functools.partial(QuietHandler, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            found = load_e2e(name, f"http://127.0.0.1:{server.server_port}", split="test", streaming=True)
            assert events(found) == events(load_e2e(name, folder, split="test", streaming=True))
            server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A web server that supports range requests, as public ones do."""

    def log_message(self, *arguments):
        pass

    def send_head(self):
        wanted, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            return super().send_head()
        first, last = wanted.removeprefix("bytes=").split("-")
        data = path.read_bytes()
        chosen = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(chosen) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(chosen)))
        self.end_headers()
        self.wfile.write(chosen)
        return None


def test_order_is_the_same_in_another_process(rows_dir):
    code = (
        "import sys; from e2evit.data import builder, load_e2e; builder.PIECE_ROWS, builder.PIECES_AT_ONCE = 10, 4; "
        "rows = load_e2e('simulated', sys.argv[1], split='train', streaming=True, shuffle_seed=7); "
        "print(*(row['event_id'] for row in rows))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(rows_dir)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == events(stream(rows_dir, shuffle_seed=7))
