"""What a checkpoint folder and a data set may hold; each spelling of what they may not is refused by name."""

import gzip
import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from e2evit.data.manifest import weights_hashes
from e2evit.hub.code import add_code
from e2evit.hub.markup import check_card
from e2evit.hub.publish import publish_model
from e2evit.hub.safety import MODEL_FILES, check_checkpoint, check_dataset

ROOT = Path(__file__).parents[1]
LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
HUB_TOKEN = f"hf_{LETTERS}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A whole checkpoint with small weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for name in {name for name in MODEL_FILES if "*" not in name} - {"model.safetensors"}:
        shutil.copyfile(ROOT / "checkpoints/linearvit" / name, folder / name)
    (folder / "model.safetensors").write_bytes(save({"weight": np.ones(3, np.float32)}, {"format": "pt"}))
    (folder / "figures").mkdir()
    (folder / "figures/roc.png").write_bytes(picture())
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    return folder


@pytest.fixture
def folder(built, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


def picture(**texts):
    """A PNG; texts named `zTXt...` are packed, `iTXt...` international."""
    info, file = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        if name.startswith("iTXt"):
            info.add_itxt(name, text)
        else:
            info.add_text(name, text, zip=name.startswith("zTXt"))
    Image.new("L", (2, 2)).save(file, "png", pnginfo=info)
    return file.getvalue()


def refused(folder, name, reason):
    """The folder is refused with one line that names the file and the reason."""
    with pytest.raises(ValueError, match=reason) as raised:
        check_checkpoint(folder)
    assert f"{folder}: {name} " in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_whole_folder_passes(folder):
    check_checkpoint(folder)
    add_code(folder)
    check_checkpoint(folder)


STRANGE = """
recipe.yml index.html .env analysis.ipynb notes.txt README.MD Config.json config.json.bak CONFIG.JSON
adapter_config.json generation_config.json processor_config.json tokenizer.json states/state.json
model.onnx model.h5 model.msgpack adapter_model.safetensors figures/roc.svg figures/a/b.png train.sh
kernels/window.cpp lib.so .git/config a.tar .cache/huggingface/a.metadata code/modeling_linearvit.py
__pycache__/modeling_linearvit.cpython-311.pyc module.pyc .py
.eval_results/jets.json .eval_results/jets/all.yaml eval_results/jets.yaml
"""
PICKLES = "model.pkl MODEL.PKL model.pkl.gz model.dill a/b/optimizer.PT pytorch_model.bin x.pickle.xz a.npy"


def test_files_that_are_not_on_the_list(folder):
    for name in (*STRANGE.split(), "a\nb.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
        shown = name if name.isprintable() else ascii(name)
        refused(folder, shown, "does not belong here; move it elsewhere|is not the file")
        (folder / name).unlink()


def test_pickles(folder):
    for name in PICKLES.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(b"\x80\x04N."))
        refused(folder, name, "can hold a pickle")
        (folder / name).unlink()


def test_scores_of_benchmarks(folder):
    path = folder / ".eval_results/jets.yaml"
    path.parent.mkdir()
    path.write_text("- dataset: {id: org/jets, task_id: roc_auc}\n  value: 0.9\n")
    check_checkpoint(folder)
    for text, reason in (
        ("dataset: {id: org/jets}\n", "holds YAML that is a dict, not a list"),
        ("- !!python/object:os.system {}\n", "is not plain YAML"),
        (f"- notes: {HUB_TOKEN}\n", "looks like a Hub token"),
    ):
        path.write_text(text)
        refused(folder, ".eval_results/jets.yaml", reason)


def test_what_is_not_a_plain_file(folder):
    (folder / "figures/link.png").symlink_to("roc.png")
    refused(folder, "figures/link.png", "is a symbolic link")
    (folder / "figures/link.png").unlink()
    (folder / "other").symlink_to("/etc")
    refused(folder, "other", "is a symbolic link")
    (folder / "other").unlink()
    (folder / "run_info.json").unlink()
    os.mkfifo(folder / "run_info.json")
    refused(folder, "run_info.json", "does not belong here")


def escaped(text):
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


IN_FILES = [
    ("config.json", lambda old: old.replace(b'"qcd"', json.dumps(HUB_TOKEN).encode())),
    ("results.json", lambda old: old.replace(b"{", b'{"note": "%s", ' % escaped(HUB_TOKEN).encode(), 1)),
    ("run_info.json", lambda old: old.replace(b"{", b'{"%s": 1, ' % escaped(HUB_TOKEN).encode(), 1)),
    ("recipe.yaml", lambda old: old + b'token: "%s"\n' % escaped(HUB_TOKEN).encode()),
    ("README.md", lambda old: old + f"\nhf&#95;{LETTERS}\n".encode()),
    ("README.md", lambda old: old.replace(b"---\n", b'---\nx: "%s"\n' % escaped(HUB_TOKEN).encode(), 1)),
    ("README.md", lambda old: old + f"\n<!-- {HUB_TOKEN} -->\n".encode()),
    (".gitattributes", lambda old: old + HUB_TOKEN.encode()),
    ("model.safetensors", lambda old: save({"a": np.ones(3)}, {"note": HUB_TOKEN})),
    ("figures/roc.png", lambda old: picture(tEXt=HUB_TOKEN)),
    (f"figures/{HUB_TOKEN}.png", lambda old: picture()),
]


@pytest.mark.parametrize(("name", "change"), IN_FILES, ids=range(len(IN_FILES)))
def test_a_token_in_every_kind_of_file(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    refused(folder, name, "holds what looks like a Hub token")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (picture(zTXt=HUB_TOKEN), "holds a 'zTXt' chunk; save the picture again"),
        (picture(iTXt="text"), "holds a 'iTXt' chunk"),
        (picture() + b"PK\x03\x04", "not a whole PNG picture, or holds more"),
        (picture()[:-5], "not a whole PNG picture"),
        (picture()[:8] + chunk(b"eXIf", b"x") + picture()[8:], "holds a 'eXIf' chunk"),
        (b"<svg onload=alert(1)>", "not a whole PNG picture"),
        (b"", "not a whole PNG picture"),
    ],
)
def test_pictures(folder, content, reason):
    (folder / "figures/roc.png").write_bytes(content)
    refused(folder, "figures/roc.png", reason)


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "results.json", "run_info.json"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"auto_map": "other/repo--evil.Class"}, "a code reference is `module.Class`"),
        ({"auto_map": ["other/repo--evil.Class"]}, "a code reference is `module.Class`"),
        ({"auto_map": {"AutoModel": "other/repo--evil.Class"}}, "a code reference is `module.Class`"),
        ({"auto_map": {"AutoModel": [None, "other/repo--evil.Class"]}}, "a code reference is `module.Class`"),
        ({"auto_map": {"AutoModel": {"a": {"b": "evil.Class"}}}}, "a code reference is `module.Class`"),
        ({"auto_map": {"AutoModel": [["evil.Class"]]}}, "a code reference is `module.Class`"),
        ({"auto_map": {"AutoModel": "missing.Class"}}, r"there is no missing\.py"),
        ({"auto_map": 7}, "a code reference is `module.Class`"),
        ({"custom_pipelines": "other/repo--evil.Class"}, "a code reference is `module.Class`"),
        ({"custom_pipelines": {"x": "other/repo--evil.Class"}}, "a code reference is `module.Class`"),
        ({"custom_pipelines": {"x": {"impl": "a/b--c.D"}}}, "a code reference is `module.Class`"),
        ({"custom_pipelines": {"x": {"default": {"model": ["a/b"]}}}}, "pipelines have `impl` and `pt` alone"),
        ({"custom_pipelines": {"x": {"pt": ["a/b--c.D"]}}}, "pipelines have `impl` and `pt` alone"),
        ({"id2label": {"auto_map": {"AutoModel": "other/repo--evil.Class"}}}, "a code reference is `module.Class`"),
        ({"id2label": [{"auto_map": "other/repo--evil.Class"}]}, "a code reference is `module.Class`"),
        ({"id2label": {"attn_implementation": "other/kernel"}}, "'attn_implementation', which can load code"),
        ({"id2label": {"quantization_config": {"quant_method": "x"}}}, "'quantization_config', which can load code"),
        ("[]", "is not JSON of an object but of a list"),
        ("{", "is not JSON"),
        (DEEP, "is not JSON"),
        ('{"a": ' + DEEP, "is not JSON"),
        ('{"a": ' + "9" * 10_000 + "}", "is not JSON"),
        ("\ufeff{}", "is not JSON"),
        ('{"a": "' + "a" * 5_000_000 + '"}', "has 500.* bytes; at most"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
    ],
)
def test_json(folder, name, change, reason):
    if isinstance(change, dict):
        if name == "preprocessor_config.json" and "id2label" in change:
            change = {"channel_names": change["id2label"]}
        content = json.loads((folder / name).read_text()) | change
        (folder / name).write_text(json.dumps(content))
    else:
        (folder / name).write_bytes(change if isinstance(change, bytes) else change.encode())
    refused(folder, name, reason)


@pytest.mark.parametrize(
    "field", ["_attn_implementation", "peft_config", "base_model_name_or_path", "per_layer_config"]
)
def test_fields_that_our_configurations_do_not_have(folder, field):
    for name in ("config.json", "preprocessor_config.json"):
        content = (folder / name).read_text()
        (folder / name).write_text(json.dumps(json.loads(content) | {field: "a/b"}))
        refused(folder, name, f"has a field '{field}'")
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    "content",
    ["a: !!python/object/apply:os.system [ls]", "- a", "a: " + DEEP[:3000], "a: &b [*b", "a: 1\n---\nb: 2", ""],
)
def test_yaml(folder, content):
    (folder / "recipe.yaml").write_text(content)
    refused(folder, "recipe.yaml", "is not plain YAML|holds YAML that is")


def test_yaml_that_grows(folder):
    """Nine aliases in each of forty lines: 9^40 strings if they were copied, as merge keys do."""
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    merged = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
    sexagesimal = ["a: 1" + ":1" * 2**18]  # digits of one number, of which each takes as long as all before
    for text in map("\n".join, (lines, merged, sexagesimal)):
        (folder / "recipe.yaml").write_text(text)
        refused(folder, "recipe.yaml", "is not plain YAML .it stands for more than|has 524292 bytes; at most")
    with pytest.raises(ValueError, match=r"is not plain YAML .it stands for more than"):
        check_card("---\n" + "\n".join(merged) + "\n---\nText")


def test_python_is_ours_byte_for_byte(folder):
    add_code(folder)
    path = folder / "modeling_linearvit.py"
    code = path.read_bytes()
    for changed in (code + b"\nimport os\n", code.replace(b"\n", b"\r\n"), b""):
        path.write_bytes(changed)
        refused(folder, "modeling_linearvit.py", r"is not the file of e2evit [\d.]+; delete it")
    path.write_bytes(code)
    (folder / "evil.py").write_text("")
    refused(folder, "evil.py", "is not the file of e2evit")


def test_weights(folder):
    def weights(header, tensors=b""):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + tensors)

    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    weights({"a": entry}, bytes(4))
    check_checkpoint(folder)
    for header, tensors in (
        ({"a": entry | {"shape": [2]}}, bytes(4)),
        ({"a": entry | {"shape": [2**62, 4]}}, bytes(4)),
        ({"a": entry, "b": entry}, bytes(4)),
        ({"a": entry | {"data_offsets": [4, 8]}}, bytes(8)),
        ({"a": entry | {"dtype": "O"}}, bytes(4)),
        ({"a": entry}, bytes(5)),
        ({"a": [entry]}, bytes(4)),
        ([entry], bytes(4)),
        (DEEP.encode(), b""),
        (b"\xff", b""),
        (b'{"__metadata__": {"x": 1}}', b""),
    ):
        weights(header, tensors)
        refused(folder, "model.safetensors", "is damaged")
    for content in (b"", b"1234", struct.pack("<Q", 2**63)):
        (folder / "model.safetensors").write_bytes(content)
        refused(folder, "model.safetensors", "is damaged")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("number", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite(folder, dtype, number):
    """They are safe to load, and say so when they are used, but are not published."""
    path = folder / "model.safetensors"
    path.write_bytes(save_torch({"a": torch.tensor([1, number], dtype=dtype)}))
    check_checkpoint(folder)
    with pytest.raises(ValueError, match="holds a NaN or infinite number in the tensor 'a'"):
        publish_model(folder, "physics/tagger")


def test_weights_of_another_training(folder):
    """The record of the run has the hash of its weights; it makes nobody read another file."""
    path = folder / "run_info.json"
    record, weights = json.loads(path.read_text()), folder / "model.safetensors"
    path.write_text(json.dumps(record | {"sha256": weights_hashes(folder)}))
    check_checkpoint(folder)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: it is not the file that training wrote"):
        check_checkpoint(folder)
    path.write_text(json.dumps(record | {"sha256": {"/proc/kcore": "0"}}))
    with pytest.raises(ValueError, match=r"records a file '/proc/kcore' elsewhere"):
        check_checkpoint(folder)


def test_data_sets(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "e2evit.json").write_text("{}")
    (tmp_path / "README.md").write_text("# Jets\n")
    table = pa.table({"x": [1.0]})
    pq.write_table(table, tmp_path / "data/train-00000.parquet")
    (tmp_path / ".env").write_text(HUB_TOKEN)  # stays where it is
    assert check_dataset(tmp_path) == ["README.md", "data/train-00000.parquet", "e2evit.json"]
    pq.write_table(table.replace_schema_metadata({"note": HUB_TOKEN}), tmp_path / "data/test-00000.parquet")
    for name, content, reason in (
        ("data/test-00000.parquet", None, "looks like a Hub token"),
        ("data/test-00000.parquet", b"PAR1", "not a whole Parquet file"),
        ("README.md", b"<script>", "active HTML"),
        ("e2evit.json", b'{"source": "%s"}' % HUB_TOKEN.encode(), "looks like a Hub token"),
    ):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before if content is None else content)
        with pytest.raises(ValueError, match=rf"{name} .*{reason}"):
            check_dataset(tmp_path)
        pq.write_table(table, tmp_path / name) if name.endswith("parquet") else (tmp_path / name).write_bytes(before)
    (tmp_path / "data/link.parquet").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match=r"link\.parquet is a symbolic link"):
        check_dataset(tmp_path)
    (tmp_path / "data/link.parquet").rename(tmp_path / "data/link.txt")
    with pytest.raises(ValueError, match=r"link\.txt is a symbolic link"):
        check_dataset(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "data").symlink_to("elsewhere")
    with pytest.raises(ValueError, match="data is a symbolic link"):
        check_dataset(tmp_path)


NOTE = {"note": HUB_TOKEN}
IDS = pa.array([f"run-{row}" for row in range(100_000)])
LISTS = pa.array([[1.0]])


@pytest.mark.parametrize(
    ("field", "column", "reason"),
    [
        (pa.field("event_id", pa.string()), IDS, None),
        (pa.field("x", pa.list_(pa.float64())), LISTS, None),
        (pa.field("x", pa.float64(), metadata=NOTE), pa.array([1.0]), "looks like a Hub token"),
        (pa.field("x", pa.list_(pa.field("item", pa.float64(), metadata=NOTE))), LISTS, "looks like a Hub token"),
        (pa.field(HUB_TOKEN, pa.float64()), pa.array([1.0]), "looks like a Hub token"),
        (pa.field("event_id", pa.string()), pa.concat_arrays([IDS, pa.array([HUB_TOKEN])]), "looks like a Hub token"),
        (pa.field("note", pa.string()), pa.array(["x"]), "has a column 'note' of string; only numbers"),
        (pa.field("event_id", pa.binary()), pa.array([b"x"]), "has a column 'event_id' of binary"),
        (pa.field("x", pa.list_(pa.string())), pa.array([["x"]]), "has a column 'x' of list<"),
        (
            pa.field("x", pa.list_(pa.list_(pa.int8()))),
            pa.array([[[1]]], pa.list_(pa.list_(pa.int8()))),
            "has a column",
        ),
        (pa.field("x", pa.struct({"a": pa.int64()})), pa.array([{"a": 1}]), "has a column 'x' of struct"),
    ],
)
def test_columns(tmp_path, field, column, reason):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/train-00000.parquet"
    pq.write_table(pa.table([column.cast(field.type)], schema=pa.schema([field])), path)
    if reason is None:
        assert check_dataset(tmp_path) == ["data/train-00000.parquet"]
    else:
        with pytest.raises(ValueError, match=rf"train-00000\.parquet .*{reason}"):
            check_dataset(tmp_path)
