"""A Hub that refuses, breaks, dawdles or talks nonsense: all is published, or nothing, or the error says what."""

import json
import logging
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import TOKEN, Fault, run_hub
from huggingface_hub import constants
from huggingface_hub.utils import _http
from safetensors.numpy import save

from e2evit.data.manifest import sha256_of
from e2evit.hub import connection
from e2evit.hub.connection import open_requests
from e2evit.hub.publish import publish_dataset, publish_model

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # of the client's uploads
ROOT, REPO = Path(__file__).parents[1], "physics/tagger"
REQUESTS = {
    "refs": "GET .*/refs$",
    "create": "POST /api/repos/create",
    "branch": "POST .*/branch/",
    "tag": "POST .*/tag/",
    "tree": "GET .*/tree/",
    "validate": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "upload": "PUT /lfs/",
    "commit": "POST .*/commit/",
}
SIGNED = "https://storage.example.org/object?X-Signature=0123456789abcdef"
PAGE = f"<html>Sign in {TOKEN} {SIGNED}</html>".encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with small weights."""
    folder = tmp_path_factory.mktemp("publish")
    for name in ("config.json", "README.md"):
        shutil.copyfile(ROOT / "checkpoints/xcit" / name, folder / name)
    (folder / "model.safetensors").write_bytes(save({"weight": np.ones(3, np.float32)}))
    return folder


@pytest.fixture
def hub(monkeypatch):
    """A running Hub that the client in this process talks to; nobody sleeps."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(0.001))
    with run_hub() as (hub, endpoint):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        hub.sleep = sleep
        yield hub


def state(hub):
    return {name: (dict(one.branches), dict(one.tags)) for name, one in hub.repositories.items()}


def publish(folder, **arguments):
    """The address of the commit, or the error."""
    try:
        return publish_model(folder, REPO, token=TOKEN, **arguments)
    except OSError as error:
        return error


def check(hub, before, outcome, caplog, branch="main", tag=None):
    """Everything is there, or all is as before, or the message says what is not and how to remove it."""
    if isinstance(outcome, str):
        repository = hub.repositories[REPO]
        assert set(hub.files(REPO, branch)) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
        assert tag is None or repository.tags[tag] == repository.branches[branch]
        return
    message = str(outcome)
    assert "\n" not in message
    if "Nothing was changed there" in message:
        assert state(hub) == before
    else:
        assert re.search("`(hf repos (delete|branch delete|tag create) |git revert)", message)
    for text in (message, caplog.text):
        assert TOKEN not in text
        assert "X-Signature" not in text


ALWAYS = [(name, status) for name in REQUESTS for status in (403, 500, None, "page")]
ALWAYS += [("commit", status) for status in (400, 401, 404, 409, 412, 413, 429)]
ALWAYS += [(name, status) for name in ("create", "tag") for status in (404, 409, 429)]


@pytest.mark.parametrize(("request_name", "status"), ALWAYS)
def test_a_request_that_always_fails(folder, hub, caplog, request_name, status):
    """To a new repository, and to a new branch of one that exists."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "huggingface_hub")
    page = PAGE if status == "page" else None
    for there in (False, True):
        hub.repositories.clear()
        if there:
            publish_model(folder, REPO, token=TOKEN, tag="v0")
        hub.faults[:] = [Fault(REQUESTS[request_name], 200 if page else status, 99, body=page)]
        before = state(hub)
        outcome = publish(folder, revision="nano", tag="v1")
        check(hub, before, outcome, caplog, "nano", "v1")
        hub.faults.clear()


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("status", [500, None])
def test_an_answer_that_is_lost(folder, hub, caplog, request_name, status):
    """The Hub does what was asked and fails to say so, once: publishing goes on, and does nothing twice."""
    for there in (False, True):
        hub.repositories.clear()
        hub.commits.clear()
        if there:
            publish_model(folder, REPO, token=TOKEN, tag="v0")
        before = state(hub)
        hub.faults[:] = [Fault(REQUESTS[request_name], status, late=True)]
        outcome = publish(folder, revision="nano", tag="v1")
        assert isinstance(outcome, str)
        check(hub, before, outcome, caplog, "nano", "v1")
        assert len(hub.commits) == 1, "on the branch that is new there is nothing new to commit" if there else "one"


def test_what_stays_behind_is_named(folder, hub, tmp_path):
    """Where taking back is refused too, where only the tag is missing, and where somebody else was faster."""
    commit, delete, tag = Fault("POST .*/commit/", 403, 99), Fault("DELETE ", 403, 99), Fault("POST .*/tag/", 403, 99)
    hub.faults[:] = [commit, delete]
    assert f"undo it with `hf repos delete {REPO}`." in str(publish(folder))
    hub.repositories.clear()
    hub.faults[:] = [tag]
    message = str(publish(folder, tag="v1"))
    assert f"undo it with `hf repos delete {REPO}`, or publish without a tag." in message
    assert not hub.commits
    hub.faults[:] = [Fault("POST .*/tag/", 403, 99, skip=1)]
    message, oid = str(publish(folder, tag="v1")), hub.repositories[REPO].branches["main"]
    assert f"`hf repos tag create {REPO} v1 --revision {oid}`" in message
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "run_info.json").write_text("{}")
    hub.faults[:] = [commit, delete]
    assert f"`hf repos branch delete {REPO} nano`" in str(publish(other, revision="nano"))
    hub.faults[:] = [Fault("POST .*/commit/", 403, late=True)]  # as if refused after another's commit
    assert "A commit on main was left behind: if this upload made it, undo it with" in str(publish(other))


def test_an_interrupt_takes_back_too(folder, hub, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        publish_model(folder, REPO, token=TOKEN)
    assert not hub.repositories


def test_private_never_means_public(folder, hub):
    publish_model(folder, REPO, token=TOKEN)
    with pytest.raises(ValueError, match=r"exists and is public, .*`hf repos settings physics/tagger --private`"):
        publish_model(folder, REPO, private=True, token=TOKEN)
    hub.repositories.clear()
    publish_model(folder, REPO, private=True, token=TOKEN)
    publish_model(folder, REPO, private=True, token=TOKEN)
    assert hub.repositories[REPO].private


@pytest.mark.parametrize("repo_id", ["a/b/c", "a b", "../x", "", "a/--b"])
def test_names_that_no_repository_has(folder, hub, repo_id):
    with pytest.raises(ValueError, match=r"(?i)repo.id"):
        publish_model(folder, repo_id, token=TOKEN)


ECHOES = {
    "message": ({"X-Error-Message": f"bad token {TOKEN}"}, b"{}"),
    "body": ({}, b'{"error": "bad token %s for %s"}' % (TOKEN.encode(), SIGNED.encode())),
    "redirect": ({"Location": f"http://127.0.0.1:9/?token={TOKEN}"}, b""),
    "loop": ({"Location": "/api/repos/create"}, b""),
}


@pytest.mark.parametrize(("headers", "body"), ECHOES.values(), ids=ECHOES)
def test_tokens_are_not_repeated(folder, hub, caplog, headers, body):
    """Also where the Hub itself repeats them; nor do they follow a redirection to another server."""
    caplog.set_level(logging.INFO)
    status = 307 if "Location" in headers else 403
    hub.faults[:] = [Fault("POST /api/repos/create", status, 99, headers, body)]
    check(hub, {}, publish(folder), caplog)


def test_a_token_that_no_header_can_hold(folder, hub, caplog):
    with pytest.raises(OSError, match="Nothing was changed there") as raised:
        publish_model(folder, REPO, token=f"{TOKEN}\nX: 1")
    assert TOKEN not in str(raised.value) + caplog.text


BAD_TAGS = ["v 1", "a..b", "", "-x", ".x", "a/.b", "x.lock", "a.lock/b", "x.", "x/", "/x", "a//b", "@", "a@{b", "HEAD"]
BAD_TAGS += ["a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a\nb", "a\x7f"]


@pytest.mark.parametrize("tag", BAD_TAGS)
def test_names_that_no_tag_has(folder, hub, tag):
    with pytest.raises(ValueError, match=r"cannot be a tag in git: use letters"):
        publish_model(folder, REPO, tag=tag, token=TOKEN)
    assert not hub.repositories


def test_a_tag_called_none(folder, hub):
    for tag in ("v/1.0-é", "None", None):
        publish_model(folder, REPO, tag=tag, token=TOKEN)
    assert set(hub.repositories[REPO].tags) == {"v/1.0-é", "None"}


def write_rows(folder):
    """A prepared data set of two shards, and a file of the user's own."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# Jets\n")
    (folder / ".env").write_text(TOKEN)
    shards = []
    for number in range(2):
        path = folder / f"data/train-{number:05d}.parquet"
        pq.write_table(pa.table({"x": [float(number)]}), path)
        shards.append({"file": path.name, "rows": 1, "sha256": sha256_of(path)})
    (folder / "e2evit.json").write_text(json.dumps({"shards": {"train": shards}}))


def replace_by_a_link(folder):
    (folder / "data").rename(folder / "elsewhere")
    (folder / "data").symlink_to("elsewhere")


ONE, TWO = "data/train-00000.parquet", "data/train-00001.parquet"
LOSSES = {
    "link": (replace_by_a_link, "data is a symbolic link"),
    "folder": (lambda folder: shutil.rmtree(folder / "data"), "lacks train-00000.parquet, train-00001.parquet, which"),
    "shard": (lambda folder: (folder / TWO).unlink(), "lacks train-00001.parquet, which e2evit.json lists"),
    "other": (lambda folder: shutil.copyfile(folder / ONE, folder / TWO), "lacks train-00001.parquet, which"),
    "stray": (lambda folder: shutil.copyfile(folder / ONE, folder / "data/x.parquet"), "holds data/x.parquet, which"),
    "record": (lambda folder: (folder / "e2evit.json").write_text("{}"), "e2evit.json is damaged: it lists no shards"),
    "empty": (lambda folder: (folder / "e2evit.json").write_text('{"shards": {}}'), "lacks rows"),
}


@pytest.mark.parametrize(("lose", "reason"), LOSSES.values(), ids=LOSSES)
def test_shards_that_are_not_there_are_not_deleted(hub, tmp_path, lose, reason):
    write_rows(tmp_path)
    publish_dataset(tmp_path, REPO, token=TOKEN)
    before = hub.files(REPO)
    assert {ONE, TWO} < set(before)
    lose(tmp_path)
    with pytest.raises(ValueError, match=reason):
        publish_dataset(tmp_path, REPO, token=TOKEN)
    assert hub.files(REPO) == before


def test_data_sets_keep_the_same_promises(hub, tmp_path):
    write_rows(tmp_path)
    hub.faults[:] = [Fault("POST .*/commit/", 403, 99)]
    with pytest.raises(OSError, match=r"403 .* Nothing was changed there: the repository physics/tagger"):
        publish_dataset(tmp_path, REPO, token=TOKEN)
    assert not hub.repositories
    hub.faults.clear()
    publish_dataset(tmp_path, REPO, token=TOKEN)
    assert set(hub.files(REPO)) == {".gitattributes", "README.md", "e2evit.json", ONE, TWO}
    (tmp_path / "e2evit.json").write_text(f'{{"token": "{TOKEN}"}}')
    with pytest.raises(ValueError, match=r"e2evit\.json holds what looks like a Hub token"):
        publish_dataset(tmp_path, REPO, token=TOKEN)


def test_an_error_of_ours_can_be_found(caplog):
    caplog.set_level(logging.DEBUG)

    def fail():
        raise TypeError(f"a list, {TOKEN}")

    with open_requests(TOKEN) as requests, pytest.raises(OSError, match="does not answer as a Hub does: a list"):
        requests(fail)
    assert "in fail" in caplog.text
    assert TOKEN not in caplog.text


def test_the_client_is_as_before(folder, hub):
    before = _http._GLOBAL_CLIENT_FACTORY
    with open_requests(TOKEN) as requests:
        assert _http._GLOBAL_CLIENT_FACTORY is not before
        assert requests.hide(f"a {TOKEN} b") == "a *** b"
    assert _http._GLOBAL_CLIENT_FACTORY is before


@pytest.mark.parametrize("headers", [{"Retry-After": "100000"}, {"RateLimit": '"api";r=0;t=100000'}])
@pytest.mark.parametrize("request_name", ["commit", "batch"])  # one of the client's that it repeats itself
def test_a_hub_that_asks_for_a_day(hub, folder, monkeypatch, request_name, headers):
    waits, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (waits.append(seconds), sleep(0.001)))
    hub.faults.append(Fault(REQUESTS[request_name], 429, headers=headers))
    publish_model(folder, REPO, token=TOKEN)
    assert 60 <= max(waits) <= 61


@pytest.mark.parametrize("request_name", REQUESTS)
def test_an_answer_of_one_byte_a_second(folder, hub, caplog, monkeypatch, request_name):
    monkeypatch.setattr(connection, "ANSWER", 0.3)
    monkeypatch.setattr(connection, "COMMIT", 0.3)
    monkeypatch.setattr(time, "sleep", hub.sleep)
    hub.faults[:] = [Fault(REQUESTS[request_name], 200, 99, body=b" " * 100, pause=1.0)]
    before, start = state(hub), time.monotonic()
    outcome = publish(folder, revision="nano", tag="v1")
    assert time.monotonic() - start < 5
    check(hub, before, outcome, caplog, "nano", "v1")
    assert "within 0 s" in str(outcome)
