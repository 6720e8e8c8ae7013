"""A model goes to a Hub over HTTP with the real client, comes back in a clean process, and survives a bad Hub."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from forked import LIBRARIES, run_python
from hub_server import READ_TOKEN, TOKEN, Fault, run_hub
from huggingface_hub import ModelCard
from models import make

from e2evit import E2EImageProcessor
from e2evit.cli import push as cli_push
from e2evit.data import find_schema
from e2evit.data.locks import InUse, held
from e2evit.hub import assemble
from e2evit.hub.assemble import assemble_model
from e2evit.hub.code import add_code
from e2evit.hub.safety import check_checkpoint

ROOT = Path(__file__).parents[1]
REPO = "physics/top-tagger"
JETS = {"image_size": 125, "num_channels": 8, "num_aux_features": 0, "mass_loss": "quantile"}
STRAY = {
    "adapter_config.json": '{"base_model_name_or_path": "other/repo"}',
    ".env": f"HF_TOKEN={TOKEN}",
    "run.log": TOKEN,
}
LOAD = """
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "e2evit":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
repo, revision = sys.argv[1:]
where = {"revision": revision, "trust_remote_code": True}
processor = AutoImageProcessor.from_pretrained(repo, **where)
model = AutoModelForImageClassification.from_pretrained(repo, **where).eval()
row = {"pixel_index": [46937, 70000], "pixel_value": [25.0, 3.0]}
print(json.dumps(model(**processor(row, return_tensors="pt")).logits[0].tolist()))
print(json.dumps(pipeline("e2e-jets", model=repo, **where)(row)["mass"]))
"""


def environment(home, endpoint=None, token=None):
    """The environment of a user with an empty cache, without this test run's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    kept |= {"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"}
    return kept | ({"HF_TOKEN": token} if token else {})


def call(*command, cwd=ROOT, **env):
    return run_python(*command, cwd=cwd, env=environment(**env), preloaded=LIBRARIES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, jets_dir):
    """A checkpoint as `scripts/train.py` writes it, and its results."""
    base = tmp_path_factory.mktemp("model")
    names = {"id2label": {0: "qcd", 1: "top"}, "label2id": {"qcd": 0, "top": 1}}
    channel_names = list(find_schema("simulated").channel_names)
    make("linearvit", channel_names=channel_names, **names, **JETS).save_pretrained(base / "run")
    E2EImageProcessor(channel_names).save_pretrained(base / "run")
    (base / "run/recipe.yaml").write_text("seed: 0\n")
    (base / "run/run_info.json").write_text(json.dumps({"seed": 0, "images_seen": 1000, "seconds": 10.0}))
    arguments = ("--data_dir", jets_dir, "--cache_dir", base / "cache", "--mass_column", "jet_mass")
    results = base / "results.json"
    done = call("scripts/eval.py", base / "run", *arguments, "--results", results, home=base / "home")
    assert done.returncode == 0, done.stderr[-2000:]
    for name, content in STRAY.items():
        (base / "run" / name).write_text(content)
    return base / "run", results


@pytest.fixture(scope="module")
def assembled(checkpoint, tmp_path_factory):
    return assemble_model(checkpoint[0], tmp_path_factory.mktemp("assembled") / "model", REPO, checkpoint[1])


@pytest.fixture
def folder(assembled, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(assembled, tmp_path / "copy"))


def push(checkpoint, endpoint, home, *more, token=TOKEN):
    run, results = checkpoint
    command = ("scripts/push_to_hub.py", run, "--results", results, "--repo_id", REPO, *more)
    return call(*command, home=home, endpoint=endpoint, token=token)


def publish(folder, endpoint, home, token=TOKEN, **arguments):
    """Publish a folder that is already assembled."""
    code = f"""
import importlib, sys, huggingface_hub
importlib.reload(huggingface_hub.constants)  # it reads the environment when it is imported
from e2evit.hub.publish import publish_model
try:
    print(publish_model(sys.argv[1], {REPO!r}, **{arguments!r}))
except (OSError, ValueError) as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""
    return run_python("-c", code, folder, env=environment(home, endpoint, token))


def load(endpoint, home, revision="main", token=None):
    return call("-c", LOAD, REPO, revision, home=home, endpoint=endpoint, token=token, cwd=home.parent)


def test_an_assembled_folder_is_complete(assembled):
    names = {str(path.relative_to(assembled)) for path in assembled.rglob("*") if path.is_file()}
    assert {"README.md", "config.json", "model.safetensors", "recipe.yaml", "run_info.json", "results.json"} <= names
    assert {"pipeline_e2e.py", "modeling_linearvit.py", "image_processing_e2e.py"} <= names
    assert {f"figures/{name}.png" for name in ("roc", "mass_response")} <= names
    assert "figures/sculpting.png" not in names  # needs fifty background jets that pass
    card = ModelCard.load(assembled / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert {result.metric_type for result in card.data.eval_results} >= {"roc_auc", "mae_gev"}
    for picture in re.findall(r"\]\((figures/[^)]+)\)", card.content):
        assert picture in names


def test_only_the_checkpoint_of_a_run_is_published(checkpoint, assembled):
    """An adapter would be loaded with the model, and with it a model of another repository."""
    assert all((checkpoint[0] / name).is_file() for name in STRAY)
    assert not {path.name for path in assembled.rglob("*")} & set(STRAY)


@pytest.mark.slow
def test_the_code_of_the_card_runs(checkpoint, tmp_path):
    folder = assemble_model(checkpoint[0], tmp_path / "model", str(tmp_path / "model"), checkpoint[1])
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        done = call("-c", block, home=tmp_path / "home", cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_push_load_and_push_again(checkpoint, tmp_path):
    with run_hub() as (hub, endpoint):
        done = push(checkpoint, endpoint, tmp_path / "a", "--private", "--tag", "v1")
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"Published {endpoint}/{REPO}/commit/" in done.stdout
        repository = hub.repositories[REPO]
        assert repository.private
        assert repository.tags["v1"] == repository.branches["main"]
        assert hub.commits == [REPO], "all files in one commit"
        assert len(hub.uploaded) == 1, "only the weights are large"
        refused = load(endpoint, tmp_path / "b")
        assert refused.returncode != 0, "private"
        found = load(endpoint, tmp_path / "b", revision="v1", token=READ_TOKEN)
        assert found.returncode == 0, found.stderr[-3000:]
        logits, _mass = map(json.loads, found.stdout.splitlines())
        assert len(logits) == 2
        # nothing is new: no commit, no upload
        for name, data in hub.files(REPO).items():
            if name != ".gitattributes":
                (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "model" / name).write_bytes(data)
        done = publish(tmp_path / "model", endpoint, tmp_path / "a")
        assert done.returncode == 0, done.stderr[-3000:]
        assert (hub.commits, len(hub.uploaded)) == ([REPO], 1)
        # of the scores of earlier weights, those that others contributed stay
        scores = {f".eval_results/{name}.yaml": b"[]" for name in ("e2evit-jets", "theirs")}
        repository.commit("main", hub.files(REPO) | scores)
        done = publish(tmp_path / "model", endpoint, tmp_path / "a")
        assert done.returncode == 0, done.stderr[-3000:]
        assert [name for name in hub.files(REPO) if name in scores] == [".eval_results/theirs.yaml"]
        # the tag exists: refused before any upload
        done = publish(tmp_path / "model", endpoint, tmp_path / "a", tag="v1")
        assert done.returncode == 1
        assert done.stderr.strip().endswith("choose another name, or delete that tag first.")
        done = publish(tmp_path / "model", endpoint, tmp_path / "a", revision="experiment")
        assert done.returncode == 0, done.stderr[-3000:]
        assert set(repository.branches) == {"main", "experiment"}
        for stored in (data for files in repository.commits.values() for data in files.values()):
            assert TOKEN.encode() not in stored
        assert TOKEN not in done.stdout + done.stderr


@pytest.mark.slow
def test_dry_run_sends_nothing(checkpoint, tmp_path):
    with run_hub() as (hub, endpoint):
        done = push(checkpoint, endpoint, tmp_path / "home", "--dry_run", "--output_dir", tmp_path / "kept")
        assert done.returncode == 0, done.stderr[-3000:]
        assert "model.safetensors" in done.stdout
        assert (tmp_path / "kept/README.md").is_file()
        assert not hub.repositories


@pytest.mark.parametrize(
    "fault",
    [
        Fault(r"POST /api/repos/create", 500),
        Fault(r"POST /api/models/.*/preupload", 503),
        Fault(r"POST .*/objects/batch", 500, times=2),
        Fault(r"PUT /lfs/", None, times=2),
        Fault(r"PUT /lfs/", 502),
        Fault(r"POST /api/models/.*/commit", 429, headers={"Retry-After": "1"}),
        Fault(r"POST /api/models/.*/commit", 500),
    ],
    ids=["create-500", "preupload-503", "batch-500", "dropped-upload", "upload-502", "commit-429", "commit-500"],
)
def test_a_hub_that_stumbles(assembled, tmp_path, fault):
    """Requests are retried, and in the end everything is there exactly once."""
    with run_hub() as (hub, endpoint):
        hub.faults.append(fault)
        done = publish(assembled, endpoint, tmp_path)
        assert fault.seen == fault.times, "the fault was met"
        assert done.returncode == 0, done.stderr[-3000:]
        assert hub.commits == [REPO]
        assert hub.files(REPO)["model.safetensors"] == (assembled / "model.safetensors").read_bytes()
        assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(r"PUT /lfs/", 403, times=99), "403"),
        (Fault(r"POST /api/models/.*/commit", 400, times=99), "400"),
        (Fault(r"POST /api/repos/create", 400, times=99), "400"),
    ],
    ids=["upload-403", "commit-400", "create-400"],
)
def test_a_hub_that_fails(assembled, tmp_path, fault, message):
    """One clear error, and no revision with only some of the files."""
    with run_hub() as (hub, endpoint):
        hub.faults.append(fault)
        done = publish(assembled, endpoint, tmp_path, private=True, tag="v1")
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not hub.commits
        for repository in hub.repositories.values():
            assert [set(files) for files in repository.commits.values()] == [{".gitattributes"}]
            assert not repository.tags
        assert TOKEN not in done.stdout + done.stderr


def test_a_token_without_write_access(assembled, tmp_path):
    with run_hub() as (hub, endpoint):
        done = publish(assembled, endpoint, tmp_path, token=READ_TOKEN)
        assert done.returncode == 1
        assert "403" in done.stderr
        assert not hub.repositories
        # to somebody else's repository
        assert publish(assembled, endpoint, tmp_path).returncode == 0
        done = publish(assembled, endpoint, tmp_path, token=READ_TOKEN)
        assert done.returncode == 1
        assert hub.commits == [REPO]


def test_a_folder_in_use_stays_locked_until_the_upload_ends(monkeypatch, tmp_path, capsys):
    """Also where the folder is given as `.`, which has no name."""

    def refused_meanwhile(*_, **__):
        with pytest.raises(InUse), held(tmp_path.parent, tmp_path.name):
            pass
        return tmp_path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("e2evit.cli.push.assemble_model", refused_meanwhile)
    monkeypatch.setattr("e2evit.cli.push.publish_model", refused_meanwhile)
    cli_push.push("run", cli_push.PushArguments(REPO, "results.json", output_dir="."))
    assert "Published" in capsys.readouterr().out


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"holds notes\.txt, which would be lost: choose a folder that is new or empty"
    ):
        assemble_model("run", tmp_path, REPO, "results.json")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_results_of_another_model_are_refused(checkpoint, tmp_path):
    run, results = checkpoint
    record = json.loads(results.read_text()) | {"parameters": 7}
    (tmp_path / "other.json").write_text(json.dumps(record))
    with pytest.raises(FileNotFoundError, match=r"other\.parquet: measure the checkpoint"):
        assemble_model(run, tmp_path / "model", REPO, tmp_path / "other.json")
    shutil.copyfile(results.with_suffix(".parquet"), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="belongs to a model with 7 parameters"):
        assemble_model(run, tmp_path / "model", REPO, tmp_path / "other.json")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_loads_only_with_e2evit_is_refused(checkpoint, tmp_path, monkeypatch):
    """Code that imports e2evit would load here but nowhere else."""

    def add_bad_code(folder):
        add_code(folder)
        path = folder / "modeling_linearvit.py"
        path.write_text(path.read_text().replace("import torch\n", "import e2evit\nimport torch\n", 1))

    monkeypatch.setattr(assemble, "add_code", add_bad_code)
    with pytest.raises(ValueError, match="does not load without e2evit"):
        assemble_model(checkpoint[0], tmp_path / "model", REPO, checkpoint[1])
    assert not list(tmp_path.iterdir())


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_hostile_folders(folder):
    """Each is refused, naming the file, before anything in it is loaded."""
    check_checkpoint(folder)
    weights = (folder / "model.safetensors").read_bytes()

    def refused(message):
        with pytest.raises(ValueError, match=message):
            check_checkpoint(folder)

    for name in ("pytorch_model.bin", "extra/optimizer.pt", "scaler.pkl"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x80\x04N.")
        refused(f"{name} can hold a pickle")
        path.unlink()
    for header, message in (
        ((1 << 40).to_bytes(8, "little") + weights[8:], "its header claims 1099511627776 bytes"),
        (weights[:8] + b"x" + weights[9:], "its header is not that of a safetensors file"),
        (weights[:-100], "the tensors end at byte"),
    ):
        (folder / "model.safetensors").write_bytes(header)
        refused(message)
    (folder / "model.safetensors").write_bytes(weights)
    good = (folder / "config.json").read_text()
    for reference in ("/etc/evil.Class", "../evil.Class", "other/repo--evil.Class", "os.path.join", "evil", 7):
        edit_config(folder, auto_map={"AutoModel": reference})
        refused("a code reference is `module.Class`")
        edit_config(folder, auto_map=None, custom_pipelines={"e2e-jets": {"impl": reference}})
        refused("a code reference is `module.Class`")
    edit_config(folder, auto_map={"AutoModel": "missing.Class"}, custom_pipelines=None)
    refused(r"there is no missing\.py")
    (folder / "config.json").write_text("{")
    refused("is not JSON")
    (folder / "config.json").write_text(good)
    card = (folder / "README.md").read_text()
    for active in ("<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "[a](javascript:alert(1))"):
        (folder / "README.md").write_text(card + active)
        refused("holds active HTML")
    (folder / "README.md").write_text(card)
    (folder / "recipe.yaml").write_text("token: hf_abcdefghijklmnop\n")
    refused("looks like a Hub token")
    (folder / "recipe.yaml").unlink()
    (folder / "link.json").symlink_to("/etc/passwd")
    refused("is a symbolic link")
    (folder / "link.json").unlink()
    check_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        check_checkpoint(folder)


def test_wrong_shapes_are_refused(folder):
    """Weights whose width differs from the configuration's."""
    from transformers import AutoModelForImageClassification

    edit_config(folder, hidden_sizes=[32, 64])
    with pytest.raises((RuntimeError, ValueError), match=r"(?i)mismatch|size"):
        AutoModelForImageClassification.from_pretrained(folder)


def test_remote_code_does_not_run_by_default(assembled, tmp_path):
    """Without `trust_remote_code`, a process without e2evit runs none of the folder's code."""
    code = "import sys; sys.modules['e2evit'] = None; from transformers import AutoConfig; "
    done = call("-c", f"{code} AutoConfig.from_pretrained({str(assembled)!r})", home=tmp_path, cwd=tmp_path)
    assert done.returncode != 0
    assert "trust_remote_code" in done.stderr


@pytest.mark.slow
def test_training_publishes_when_it_ends(jets_dir, tmp_path):
    """`accelerate launch scripts/train.py --push_to_hub` evaluates, assembles and pushes with the same code."""
    config = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "model.json").write_text(json.dumps(config | {"mass_loss": "quantile"}))
    with run_hub() as (hub, endpoint):
        command = ["-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/one_process.yaml"]
        command += ["scripts/train.py", "--model_config", tmp_path / "model.json", "--data_dir", jets_dir]
        command += ["--output_dir", tmp_path / "run", "--num_train_epochs", 1, "--mass_column", "jet_mass"]
        command += ["--cache_dir", tmp_path / "cache", "--push_to_hub", REPO, "--hub_private"]
        done = call(*command, home=tmp_path / "home", endpoint=endpoint, token=TOKEN)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"Published {endpoint}/{REPO}/commit/" in done.stdout
        files = hub.files(REPO)
        assert {"model.safetensors", "README.md", "results.json", "run_info.json", "recipe.yaml"} <= set(files)
        assert hub.repositories[REPO].private
        stored = b"".join(files.values()) + (done.stdout + done.stderr).encode()
        assert TOKEN.encode() not in stored
