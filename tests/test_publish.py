"""A prepared data set goes to a Hub over HTTP, with the real client, and comes back through plain `datasets`."""

import json
import os
from pathlib import Path

import pytest
from forked import LIBRARIES, run_python
from hub_server import READ_TOKEN, TOKEN, run_hub
from public_files import write_public

from e2evit.data.prepare import prepare

ROOT = Path(__file__).parents[1]
PUBLISH = """
import sys
from e2evit.hub.publish import publish_dataset
try:
    for _ in range(int(sys.argv[2])):
        print(publish_dataset(sys.argv[1], "physics/jets", private=True))
except (OSError, ValueError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
READ = """
import datasets, json, sys
rows = datasets.load_dataset("physics/jets")
print(json.dumps({split: rows[split]["event_id"][:] for split in rows}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("publish")
    (base / "raw").mkdir()
    write_public("electron_photon", base / "raw", 60)
    return prepare("electron_photon", base / "raw", base / "out")


def run(code, endpoint, cache, *arguments, token=TOKEN):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(cache)}
    environment |= {"HF_TOKEN": token} if token else {}
    return run_python("-c", code, *arguments, env=environment, preloaded=LIBRARIES)


def test_publish_and_read_back(folder, tmp_path):
    with run_hub() as (hub, endpoint):
        done = run(PUBLISH, endpoint, tmp_path / "a", folder, 2)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.startswith(f"{endpoint}/datasets/physics/jets/commit/")
        expected = {"README.md", "e2evit.json", *(f"data/{path.name}" for path in (folder / "data").iterdir())}
        assert set(hub.files("physics/jets")) - {".gitattributes"} == expected
        assert all(hub.files("physics/jets")[name] == (folder / name).read_bytes() for name in expected)
        assert hub.repositories["physics/jets"].private
        assert hub.commits == ["physics/jets"], "everything in one commit, and nothing new in another"
        assert len(hub.uploaded) == len(set(hub.uploaded)), "what is there does not travel again"
        assert TOKEN not in done.stdout + done.stderr

        done = run(READ, endpoint, tmp_path / "b")
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert sum(map(len, found.values())) == 60
        assert set(found) == {"train", "validation", "test"}


def test_a_hub_that_refuses(folder, tmp_path):
    with run_hub() as (hub, endpoint):
        done = run(PUBLISH, endpoint, tmp_path, folder, 1, token=READ_TOKEN)
        assert done.returncode == 1
        assert "403" in done.stderr.splitlines()[-1] or "Forbidden" in done.stderr
        assert not hub.repositories
        assert READ_TOKEN not in done.stderr


def test_incomplete_folders(tmp_path):
    from e2evit.hub.publish import publish_dataset

    with pytest.raises(ValueError, match=r"lacks README\.md, e2evit\.json: run `e2evit prepare`"):
        publish_dataset(tmp_path, "physics/jets")
