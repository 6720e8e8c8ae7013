"""Files in the layouts of the public data sets, with random jets."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from e2evit.data import SCHEMAS

TOWER = np.ones((5, 5), np.float32)


def jets(name: str, number: int, seed: int = 0, version: int = 0) -> np.ndarray:
    """Random images with a data set's channels: signed ones take both signs, HCAL towers are 5 x 5 equal pixels."""
    schema, rng = SCHEMAS[name][version], np.random.default_rng(seed)
    shape = (number, *schema.image_shape)
    images = rng.exponential(2.0, shape).astype(np.float32) * (rng.random(shape) < 0.015)
    for channel, title in enumerate(schema.channel_names):
        if schema.channel(title).signed or title.startswith(("trk_d0", "trk_dz")):
            width = 0.01 if title.startswith("trk_d0") else 1.0
            images[:, channel] *= rng.choice([-width, width], images[:, channel].shape).astype(np.float32)
        if title == "hcal":
            images[:, channel] = np.kron(images[:, channel, ::5, ::5], TOWER)
    return images


def max_scaled(images: np.ndarray) -> np.ndarray:
    """Scale each image and channel to 0..255, as in the linear-ViT task: no negative value survives."""
    images = np.maximum(images, 0)
    largest = images.max(axis=(2, 3), keepdims=True)
    return (images / np.where(largest > 0, largest, 1) * 255).astype(np.float32)


def write_hdf5(path: Path, columns: dict[str, np.ndarray], image_key: str, **image_options) -> Path:
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, **(image_options if name == image_key else {}))
    return path


def write_parquet(path: Path, columns: dict[str, np.ndarray], rows_per_group: int = 1) -> Path:
    """Nested doubles, snappy, by default one jet per row group."""
    arrays = {name: pa.array(column.astype(np.float64).tolist()) for name, column in columns.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=rows_per_group, compression="snappy")
    return path


def channels_last(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def write_public(kind: str, folder: Path, number: int = 6, seed: int = 0) -> tuple[str, np.ndarray, dict]:
    """Write a file in the layout of one version of a data set.

    Returns:
        The name for `load_e2e`, the channels-first images, and the columns expected in the rows.
    """
    rng = np.random.default_rng(seed)
    labels, mass = np.arange(number) % 2, rng.uniform(85, 500, number)
    pt, jet_mass = rng.uniform(400, 1000, number), rng.uniform(10, 200, number)
    ieta, iphi = rng.integers(12, 44, number), rng.integers(0, 72, number)
    position = {"ieta": ieta, "iphi": iphi}
    if kind.startswith("labelled"):
        images = max_scaled(jets("labelled", number, seed))
        columns = {"jet": channels_last(images), "Y": labels[:, None].astype(np.float32)}
        expected = {"labels": labels}
        if kind == "labelled with mass":
            columns |= {"m": mass[:, None].astype(np.float32), "pT": pt[:, None].astype(np.float32)}
            expected |= {"mass_labels": mass, "pt": pt}
        write_hdf5(folder / "Dataset_Specific_labelled.h5", columns, "jet")
        return "labelled", images, expected
    if kind == "unlabelled":
        images = max_scaled(jets("unlabelled", number, seed))
        write_hdf5(folder / "Dataset_Specific_Unlabelled.h5", {"jet": channels_last(images)}, "jet")
        return "unlabelled", images, {}
    if kind.startswith("quark_gluon"):
        images = jets("quark_gluon", number, seed)
        columns, expected = {"pt": pt, "m0": jet_mass, "y": labels}, {"pt": pt, "jet_mass": jet_mass, "labels": labels}
        if kind == "quark_gluon parquet":
            name = f"QCDToGGQQ_IMGjet_RH1all_jet0_run0_n{number}.test.snappy.parquet"
            write_parquet(folder / name, {"X_jets": images} | columns)
        else:
            columns = {"X_jets": channels_last(images)} | {k: v.astype(np.float32) for k, v in columns.items()}
            options = {"chunks": (2, 125, 125, 3), "compression": "gzip"}
            write_hdf5(folder / f"quark-gluon_data-set_n{number}.hdf5", columns, "X_jets", **options)
        return "quark_gluon", images, expected
    if kind.startswith("boosted_top"):
        images = jets("boosted_top", number, seed)
        stored = channels_last(images).reshape(number, -1) if kind == "boosted_top flat" else channels_last(images)
        write_parquet(folder / "BoostedTop_x1_fixed_0.snappy.parquet", {"X_jets": stored, "y": labels}, 3)
        return "boosted_top", images, {"labels": labels}
    if kind.startswith("top_mass"):
        channels = int(kind.split()[-1])
        images = jets("top_mass", number, seed, version=[8, 4, 3].index(channels))
        columns = {"m": mass, "iphi": iphi, "pt": pt, "ieta": ieta}
        if channels == 3:
            columns = {"genM": mass}
        write_parquet(folder / "top_gun_opendata_0.parquet", {"X_jet": images} | columns)
        return "top_mass", images, {"mass_labels": mass} | ({} if channels == 3 else {"pt": pt} | position)
    if kind.startswith("tau_mass"):
        images = jets("tau_mass", number, seed)
        mass = rng.uniform(1.2, 18, number)
        columns = {"am": mass, "apt": pt, "m0": jet_mass, "jetpt": pt * 1.1, "taudR": mass / pt} | position
        expected = {"mass_labels": mass, "jet_mass": jet_mass, "pt": pt * 1.1, "apt": pt, "taudR": mass / pt}
        if kind == "tau_mass parquet":
            write_parquet(folder / "IMG_aToTauTau_0.parquet", {"X_jet": images} | columns)
        else:
            columns = {name: column[:, None].astype(np.float32) for name, column in columns.items()}
            options = {"chunks": (min(32, number), 13, 125, 125), "compression": "lzf"}
            write_hdf5(folder / "aToTauTau.h5", {"all_jet": images} | columns, "all_jet", **options)
        return "tau_mass", images, expected | position
    if kind == "electron_photon":
        images = jets("electron_photon", number, seed)
        columns = {"X": channels_last(images), "y": labels.astype(np.float32)}
        write_hdf5(folder / "SinglePhotonPt50_IMGCROPS_n249k_RHv1.hdf5", columns, "X", chunks=(2, 32, 32, 2))
        return "electron_photon", images, {"labels": labels}
    assert kind == "hls4ml"
    images = jets("hls4ml", number, seed)
    features, labels = rng.normal(size=(number, 59)), np.arange(number) % 5
    features[:, 53:59] = 0
    features[np.arange(number), 53 + labels] = 1
    features[:, 1], features[:, 3] = pt, jet_mass
    columns = {"jetImage": images[:, 1], "jetImageECAL": images[:, 0], "jetImageHCAL": images[:, 1], "jets": features}
    write_hdf5(folder / "jetImage_7_150p_0_10000.h5", {k: v.astype(np.float64) for k, v in columns.items()}, "")
    return "hls4ml", images, {"labels": labels, "pt": pt, "jet_mass": jet_mass, "eta": features[:, 2]}


KINDS = (
    *("labelled", "labelled with mass", "unlabelled", "quark_gluon parquet", "quark_gluon hdf5", "boosted_top flat"),
    *("boosted_top nested", "top_mass 8", "top_mass 4", "top_mass 3", "tau_mass parquet", "tau_mass hdf5"),
    *("electron_photon", "hls4ml"),
)
