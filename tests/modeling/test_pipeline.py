"""The pipelines on a checkpoint folder: every kind of input, the model's own numbers, and the energies it expects."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from e2evit.modeling.pipeline_e2e import dataset_channels, read_images
from forked import LIBRARIES, run_python
from models import make
from samples import random_images, row_table
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor, pipeline

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import find_schema
from e2evit.data.sparse import sparse_to_dense
from e2evit.hub.code import add_code
from e2evit.transforms.transverse import to_transverse

ROOT = Path(__file__).parents[2]
JETS = {"image_size": 125, "num_channels": 8, "num_aux_features": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    model = make("linearvit", mass_loss="quantile", id2label={0: "qcd", 1: "top"}, **JETS)
    model.save_pretrained(path)
    E2EImageProcessor(find_schema("simulated").channel_names, channel_scale=[0.5] * 8).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def jets(folder):
    return pipeline("e2e-jets", model=str(folder))


@pytest.fixture(scope="module")
def expected(folder):
    """Three random images and the model's outputs for them."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = random_images(3, labels=np.array([0, 1, 1]))
    with torch.no_grad():
        outputs = model(**processor(images, return_tensors="pt"))
    return images, outputs


def check(predictions, outputs, labels=("qcd", "top")):
    assert len(predictions) == len(outputs.logits)
    for number, one in enumerate(predictions):
        assert list(one) == ["label", "score", "scores", "mass", "mass_uncertainty"]
        probabilities = outputs.logits[number].softmax(-1).tolist()
        # batches of one and of three may round differently
        assert list(one["scores"].values()) == pytest.approx(probabilities, abs=1e-5)
        assert one["label"] == labels[int(np.argmax(probabilities))]
        assert one["score"] == max(one["scores"].values())
        assert one["mass"] == pytest.approx(outputs.mass_preds[number].item(), rel=1e-5)
        assert one["mass_uncertainty"] == pytest.approx(outputs.mass_scale_preds[number].item(), rel=1e-4)


def test_arrays(jets, expected):
    images, outputs = expected
    check([jets(image) for image in images], outputs)
    check(jets(images, batch_size=2), outputs)
    check(jets(list(images)), outputs)
    check(jets(list(np.moveaxis(images, 1, -1))), outputs)
    check(jets(torch.from_numpy(images)), outputs)
    check(list(jets(image for image in images)), outputs)


@pytest.mark.parametrize("channels_last", [False, True])
def test_files_of_dense_images(jets, expected, tmp_path, channels_last):
    images, outputs = expected
    images = np.moveaxis(images, 1, -1) if channels_last else images
    np.save(tmp_path / "jets.npy", images)
    np.save(tmp_path / "jet.npy", images[0])
    with h5py.File(tmp_path / "jets.h5", "w") as file:
        file["labels"] = np.zeros(3)
        file["group/X_jet"] = images
    check(jets(tmp_path / "jets.npy", batch_size=3), outputs)
    check(jets(str(tmp_path / "jets.h5"), batch_size=3), outputs)
    assert len(jets(tmp_path / "jet.npy")) == 1


def test_rows_and_data_sets(jets, folder, tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/jets.parquet"
    pq.write_table(row_table(30), path)
    dataset = load_e2e("simulated", tmp_path / "data", split="train", cache_dir=tmp_path / "cache")
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**processor(list(dataset.with_format("numpy")), return_tensors="pt"))
    check([jets(dataset[0])], type(outputs)(**{name: value[:1] for name, value in outputs.items()}))
    check(list(jets(dataset, batch_size=8)), outputs)
    check(jets(dataset[:30], batch_size=8), outputs)
    assert len(jets(dataset[:1])) == 1
    stream = jets(load_e2e("simulated", tmp_path / "data", split="train", streaming=True))
    assert not isinstance(stream, list)
    assert next(iter(stream))["scores"] == pytest.approx(jets(dataset[0])["scores"], abs=1e-5)
    assert len(jets(path, batch_size=16)) == 30


def test_a_model_without_uncertainty(tmp_path):
    make("xcit", **JETS).save_pretrained(tmp_path)
    processor = E2EImageProcessor(find_schema("simulated").channel_names)
    processor.save_pretrained(tmp_path)
    prediction = pipeline("e2e-jets", model=str(tmp_path))(random_images(1)[0])
    assert prediction["mass_uncertainty"] is None


def test_bad_inputs(jets, tmp_path):
    np.save(tmp_path / "small.npy", np.zeros((8, 64, 64)))
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    pq.write_table(row_table(2).drop(["pixel_value"]), tmp_path / "columns.parquet")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["X"] = np.zeros((2, 5, 5))
    messages = {
        "nothing.npy": "There is no file",
        "small.npy": "got float64 of shape (8, 64, 64)",
        "pickled.npy": "not a readable array",
        "broken.h5": "not a readable HDF5 file",
        "broken.parquet": "not a readable Parquet file",
        "columns.parquet": "the column pixel_value is missing",
        "other.h5": "got /X (2, 5, 5)",
    }
    for name, message in messages.items():
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
            jets(tmp_path / name)
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in \.npy, \.h5, \.hdf5, \.parquet, got \.png"):
        read_images(tmp_path / "image.png", (8, 125, 125))
    with pytest.raises(ValueError, match="Image 1: expected one image, got 2"):
        jets([random_images(1)[0], random_images(2)])
    with pytest.raises(ValueError, match="Unknown arguments of E2EJetsPipeline: top_k"):
        jets(random_images(1)[0], top_k=2)


@pytest.mark.parametrize(
    "nothing", [[], np.zeros((0, 8, 125, 125), np.float32), torch.zeros(0, 8, 125, 125), iter(())]
)
def test_no_images(jets, nothing):
    assert list(jets(nothing)) == []


@pytest.mark.parametrize("batch_size", [1, 2])
def test_errors_name_the_image(jets, folder, batch_size):
    """Its place in the input, in batches and streams too, for pixels and for outputs that are not finite."""
    images = random_images(3)
    images[2, 3, 5, 5] = 3e38
    features = pipeline("e2e-features", model=str(folder))
    for given in (images, list(images), iter(images)):
        with pytest.raises(ValueError, match=r"Image 2 holds a pixel of 3e\+38"):
            list(jets(given, batch_size=batch_size))
    images[2, 3, 5, 5] = 1e30  # finite in network units
    for run, name in ((jets, "logits"), (features, "features")):
        hook = run.model.base_model.register_forward_hook(_nan_for_hot_images)
        with pytest.raises(ValueError, match=f"Image 2: the model's `{name}` is not finite"):
            list(run(images, batch_size=batch_size))
        hook.remove()


def _nan_for_hot_images(module, inputs, outputs):
    is_hot = inputs[0].amax((1, 2, 3)) > 50
    outputs["pooler_output"] = outputs.pooler_output.masked_fill(is_hot[:, None], float("nan"))
    return outputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_type(jets, expected, dtype):
    images = torch.from_numpy(expected[0]).to(dtype)
    assert [jet["mass"] for jet in jets(images)] == [jet["mass"] for jet in jets(images.float())]


@pytest.mark.parametrize("task", ["e2e-jets", "e2e-features", "image-classification", "image-feature-extraction"])
def test_code_in_a_folder_raises_no_question(task, folder, tmp_path, monkeypatch):
    """It asked for 15 s whether to run code that the folder does not even have."""
    asked = []
    monkeypatch.setattr("builtins.input", asked.append)
    shutil.copytree(folder, tmp_path / "with_code")
    add_code(tmp_path / "with_code")
    assert pipeline(task, model=str(tmp_path / "with_code"))
    assert not asked


def test_it_works_without_e2evit(folder, tmp_path):
    """A process without e2evit runs it from a folder with code, saves it, and runs the saved copy."""
    folder = shutil.copytree(folder, tmp_path / "model")
    add_code(folder)
    np.save(tmp_path / "jets.npy", random_images(2))
    code = """
import sys
sys.modules["e2evit"] = None
from transformers import pipeline
folder, file, other = sys.argv[1:]
jets = pipeline("e2e-jets", model=folder, trust_remote_code=True)
print(len(jets(file)))
jets.save_pretrained(other)
print(len(pipeline("e2e-jets", model=other, trust_remote_code=True)(file)))
"""
    done = run_python("-c", code, folder, tmp_path / "jets.npy", tmp_path / "again", preloaded=LIBRARIES)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2", "2"]


def test_embeddings(folder, expected):
    """The pooled features that the heads read."""
    images, _ = expected
    features = pipeline("e2e-features", model=str(folder))
    processor = AutoImageProcessor.from_pretrained(folder)
    base = AutoModelForImageClassification.from_pretrained(folder).eval().base_model
    with torch.no_grad():
        pooled = base(processor(images, return_tensors="pt")["pixel_values"]).pooler_output.numpy()
    np.testing.assert_allclose(np.stack(features(images, batch_size=2)), pooled, rtol=1e-4, atol=1e-5)
    assert features(images[0]).shape == (32,)


PLAIN = find_schema("simulated").channel_names
TRANSVERSE = [{"ecal": "ecal_et", "hcal": "hcal_et"}.get(name, name) for name in PLAIN]


@pytest.fixture(scope="module")
def transverse(tmp_path_factory):
    """A bundled model, trained on transverse energies, and the simulated jets before and after conversion."""
    data = ROOT / "tests/data/jets"
    plain = load_e2e("simulated", data, cache_dir=tmp_path_factory.mktemp("cache"))
    converted, _ = to_transverse(plain, find_schema("simulated", data))
    return pipeline("e2e-jets", model=str(ROOT / "checkpoints/linearvit")), plain["test"], converted["test"], data


def outputs_of(jets, rows, channel_names):
    pixels = jets.image_processor(list(rows.with_format("numpy")), channel_names=channel_names, return_tensors="pt")
    with torch.no_grad():
        return jets.model(**pixels)


def test_plain_energies_become_transverse(transverse):
    """Rows of `load_e2e` and Parquet files say what they hold; predictions equal those for converted rows."""
    jets, plain, converted, data = transverse
    assert dataset_channels(plain) == list(PLAIN)
    assert dataset_channels(converted) == TRANSVERSE
    expected = outputs_of(jets, converted, TRANSVERSE)
    wrong = outputs_of(jets, plain, TRANSVERSE).mass_preds  # plain energies labelled as transverse
    assert (wrong / expected.mass_preds - 1).abs().mean() > 0.05
    labels = list(jets.model.config.id2label.values())
    check(list(jets(plain, batch_size=8)), expected, labels)
    check(list(jets(converted, batch_size=8)), expected, labels)
    check([jets(row, channel_names=PLAIN) for row in plain], expected, labels)
    path = sorted(data.glob("*.parquet"))[0]
    one_by_one = jets(pq.read_table(path).to_pylist(), channel_names=PLAIN)
    assert [jet["mass"] for jet in jets(path)] == pytest.approx([jet["mass"] for jet in one_by_one])
    stream = jets(load_e2e("simulated", data, split="test", streaming=True))
    assert next(iter(stream))["mass"] == pytest.approx(expected.mass_preds[0].item(), rel=1e-5)


def test_unlabelled_energies_are_refused(transverse, tmp_path):
    jets, plain, _, data = transverse
    row = plain[0]
    image = sparse_to_dense(row["pixel_index"], row["pixel_value"], (8, 125, 125))
    np.save(tmp_path / "jet.npy", image)
    table = pq.read_table(sorted(data.glob("*.parquet"))[0])
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "unnamed.parquet")
    for unnamed in (row, image, [row, row], tmp_path / "jet.npy", tmp_path / "unnamed.parquet"):
        with pytest.raises(ValueError, match="nothing says which energies these images hold: pass `channel_names`"):
            jets(unnamed)
    for dense in (image, tmp_path / "jet.npy"):
        with pytest.raises(ValueError, match="ecal_et, hcal_et: a dense image does not say where"):
            jets(dense, channel_names=PLAIN)
        jets(dense, channel_names=TRANSVERSE)
    with pytest.raises(ValueError, match="Image 0 does not say where on the detector it lies"):
        jets(row | {"ieta": None}, channel_names=PLAIN)
    with pytest.raises(ValueError, match="around `ieta` 60 its window leaves the detector"):
        jets(row | {"ieta": 60}, channel_names=PLAIN)
    with pytest.raises(ValueError, match=r"Expected the channels trk_pt, .*, got ecal, hcal\."):
        jets(row, channel_names=["ecal", "hcal"])
    with pytest.raises(ValueError, match=r"Expected the channels trk_pt, .*, got bpix3, "):
        jets(row, channel_names=PLAIN[::-1])


def test_no_images_are_an_empty_list(jets, tmp_path):
    empty = np.zeros((0, 8, 125, 125), np.float32)
    np.save(tmp_path / "none.npy", empty)
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["x"] = empty
    pq.write_table(row_table(2).slice(0, 0), tmp_path / "none.parquet")
    for inputs in (empty, torch.from_numpy(empty), [], (), iter(()), *sorted(tmp_path.iterdir())):
        assert list(jets(inputs)) == []


def test_images_made_for_another_model(jets, folder, tmp_path):
    """Another size or order of channels is refused, wherever it is written down."""
    names = list(find_schema("simulated").channel_names)
    for change, message in (
        ({"image_size": [100, 125]}, "Expected images of 125 x 125 pixels, got 100 x 125"),
        ({"channel_names": names[::-1]}, "Expected the channels trk_pt, .*, got bpix3"),
        ({"channel_names": names[::-1], "normalisation": "scaled"}, "Expected the channels trk_pt, .*, got bpix3"),
    ):
        about = {"channel_names": names, "image_size": [125, 125]} | change
        table = row_table(2).replace_schema_metadata({"e2evit": json.dumps(about)})
        pq.write_table(table, tmp_path / "jets.parquet")
        with pytest.raises(ValueError, match=message):
            jets(tmp_path / "jets.parquet")
    about = {"channel_names": names, "image_size": [125, 125]}
    pq.write_table(row_table(2).replace_schema_metadata({"e2evit": json.dumps(about)}), tmp_path / "jets.parquet")
    with pytest.raises(ValueError, match=r"Expected the channels bpix3, .*, got trk_pt"):
        jets(tmp_path / "jets.parquet", channel_names=names[::-1])
    model = AutoModelForImageClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"made for images of shape \(8, 125, 125\).*makes \(8, 100, 100\)"):
        pipeline("e2e-jets", model=model, image_processor=E2EImageProcessor(names, image_size=100))
    with pytest.raises(ValueError, match="needs an E2EImageProcessor, got ViTImageProcessor"):
        pipeline("e2e-jets", model=model, image_processor=ViTImageProcessor())
    model.config.channel_names = names[::-1]
    with pytest.raises(ValueError, match=r"made for the channels bpix3, .*returns trk_pt"):
        pipeline("e2e-jets", model=model, image_processor=E2EImageProcessor(names))
