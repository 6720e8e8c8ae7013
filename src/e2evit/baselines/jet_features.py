"""Classical jet variables from E2E images, the input of baselines without a network.

All variables use pixels within ΔR < 0.8 of the energy-weighted calorimeter centre. Images must be in physical units.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value

from e2evit.data import DatasetSchema
from e2evit.data.grid import COLUMNS, JET_RADIUS, ROWS, TOWER, WINDOW, eta_centres
from e2evit.data.manifest import digest_of, sha256_of
from e2evit.results import measure
from e2evit.transforms.transverse import TRANSVERSE, transverse_factor

__all__ = [
    "CANDIDATE_VARIABLES",
    "FEATURE_GROUPS",
    "VARIABLE_SETS",
    "Pixels",
    "candidate_features",
    "image_mass",
    "jet_features",
    "read_pixels",
    "variables",
]

_SUBJET_RADIUS = 0.3
_PRIMARY_DZ, _DISPLACED_DZ = 0.2, 1.0  # cm
_D0_CUTS = (0.005, 0.01, 0.02, 0.05, 0.1)  # cm
_RINGS = (0.1, 0.2, 0.4, 0.6, 0.8)
_PIECE = 2000  # jets whose pixels are in memory at once
_CHUNK = 500  # jets whose pairs of towers are in memory at once
_READ = ("pixel_index", "pixel_value", "ieta", "iphi")
_CHANNELS = ("trk_pt", "trk_d0", "trk_dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3")

FEATURE_GROUPS = {
    "mass, multiplicity, width": ("mass", "num_tracks", "width"),
    "calorimeter": (
        *("pt", "mass_over_pt", "num_crystals", "num_towers", "ecal_fraction", "pt_dispersion"),
        *(f"ring_{i}" for i in range(len(_RINGS))),
        *("major", "minor", "e2", "c2", "d2", "tau1", "tau21", "tau32", "mass_2_subjets", "mass_3_subjets"),
        *(f"leading_{i}" for i in (1, 2, 3, 5)),
    ),
    "tracks": (
        *("num_all_tracks", "track_pt", "all_track_pt", "track_mass", "track_width", "track_pt_dispersion"),
        *("track_fraction", "leading_track"),
        *(f"hits_{i}" for i in (1, 2, 3)),
        *(f"core_hits_{i}" for i in (1, 2, 3)),
    ),
    "impact parameters": (
        *(f"num_d0_{cut:g}" for cut in _D0_CUTS),
        *("sum_d0", "mean_d0", "d0_1", "d0_2", "d0_3"),
    ),
}

VARIABLE_SETS = {
    "mass, multiplicity, width": ("mass, multiplicity, width",),
    "and calorimeter": ("mass, multiplicity, width", "calorimeter"),
    "and tracks, hits": ("mass, multiplicity, width", "calorimeter", "tracks"),
    "all, with impact parameters": tuple(FEATURE_GROUPS),
}

# what the candidates of a jet say; the same names without `reco_` are truth of the particles
CANDIDATE_VARIABLES = ("reco_soft_drop_mass", "reco_tau21", "reco_tau32", "reco_multiplicity")


@dataclass
class Pixels:
    """Flat pixels of several jets: jet index, grid row, value, absolute eta, and phi relative to the seed tower."""

    jet: np.ndarray
    row: np.ndarray
    value: np.ndarray
    eta: np.ndarray
    phi: np.ndarray

    def select(self, keep) -> "Pixels":
        return Pixels(**{name: column[keep] for name, column in vars(self).items()})

    def sum(self, weight, num_jets: int) -> np.ndarray:
        return np.bincount(self.jet, weight, minlength=num_jets)

    def mass(self, num_jets: int) -> np.ndarray:
        """Invariant mass [GeV] of pixels whose value is a pT [GeV], taken as massless."""
        pt = self.value
        components = (pt * np.cosh(self.eta), pt * np.cos(self.phi), pt * np.sin(self.phi), pt * np.sinh(self.eta))
        e, x, y, z = (self.sum(component, num_jets) for component in components)
        return np.sqrt(np.maximum(e**2 - x**2 - y**2 - z**2, 0.0))


def read_pixels(dataset: Dataset, schema: DatasetSchema) -> dict[str, Pixels]:
    """Pixels by channel; ECAL and HCAL values become E_T [GeV], other channels are unchanged.

    Raises:
        ValueError: if a row has no window position (`ieta` is null).
    """
    return _pixels(dataset.with_format("arrow")[:], schema)


def _pixels(table: pa.Table, schema: DatasetSchema) -> dict[str, Pixels]:
    if table["ieta"].null_count:
        raise ValueError("Jet variables need the seed tower's `ieta`, which is null in some rows.")
    index = table["pixel_index"].combine_chunks()
    pixel = index.flatten().to_numpy().astype(np.int64)
    value = table["pixel_value"].combine_chunks().flatten().to_numpy().astype(np.float64)
    jet = np.repeat(np.arange(len(index)), np.diff(index.offsets.to_numpy()))
    _, height, width = schema.image_shape
    channel, pixel = np.divmod(pixel, height * width)
    row, column = np.divmod(pixel, width)
    seed_row, seed_column = (
        table[name].to_numpy().astype(np.int64)[jet] * TOWER + TOWER // 2 for name in ("ieta", "iphi")
    )
    if (height, width) == (ROWS, COLUMNS):  # the whole detector: cut the window around the seed
        row, column = row - seed_row, (column - seed_column + width // 2) % width - width // 2
        inside = (np.abs(row) <= WINDOW // 2) & (np.abs(column) <= WINDOW // 2)
        jet, channel, row, column, value, seed_row = (x[inside] for x in (jet, channel, row, column, value, seed_row))
    else:
        row, column = row - height // 2, column - width // 2
    row_on_grid = seed_row + row
    eta, phi = eta_centres(row_on_grid), np.radians(column)  # columns are degrees
    pixels = {}
    for number, name in enumerate(schema.channel_names):
        chosen = channel == number
        pixels[name] = Pixels(jet[chosen], row_on_grid[chosen], value[chosen], eta[chosen], phi[chosen])
    for name, transverse in TRANSVERSE.items():
        if name in pixels:
            pixels[name].value = pixels[name].value * transverse_factor(pixels[name].row, name == "ecal")
        else:  # they are transverse already
            pixels[name] = pixels.pop(transverse)
    return pixels


def image_mass(dataset: Dataset, schema: DatasetSchema) -> np.ndarray:
    """Invariant mass [GeV] of the calorimeter image within ΔR < 0.8 of its centre, with massless cells.

    HCAL pixels hold a 25th of their tower's energy, so the sum over its 5 x 5 pixels is the energy.
    """
    masses = [np.zeros(0)]
    for rows in _pieces(dataset):
        calorimeter = _calorimeter(read_pixels(rows, schema))
        masses.append(_near(calorimeter, *_centre(calorimeter, len(rows)), JET_RADIUS).mass(len(rows)))
    return np.concatenate(masses)


def _pieces(dataset: Dataset) -> Iterator[Dataset]:
    """Rows in pieces: the pixels of 45 000 jets at once would take 13 GiB."""
    for start in range(0, len(dataset), _PIECE):
        yield dataset.select(range(start, min(start + _PIECE, len(dataset))))


def jet_features(dataset: Dataset, schema: DatasetSchema) -> dict[str, np.ndarray]:
    """All variables of [`FEATURE_GROUPS`], each `(num_jets,)`; pT and masses in GeV, d0 in cm.

    Computed piece by piece, and once: they stay in the cache of the rows, until this file changes.

    Raises:
        ValueError: if the images lack a channel or physical units, or a row has no window position (`ieta` is null).
    """
    names = [name for group in FEATURE_GROUPS.values() for name in group]
    transverse = [TRANSVERSE.get(name, name) for name in _CHANNELS]
    missing = [a for a, b in zip(_CHANNELS, transverse) if not {a, b} & {*schema.channel_names}]
    if missing or not schema.has_physical_units:
        lack = f"the channels {', '.join(missing)}" if missing else f"physical units ({schema.normalisation})"
        raise ValueError(f"Jet variables need {', '.join(_CHANNELS)} in physical units; {schema.name!r} lacks {lack}.")
    if not len(dataset):
        return {name: np.zeros(0) for name in names}
    made_by = {"rows": dataset._fingerprint, "schema": schema.to_dict(), "code": sha256_of(Path(__file__))}
    made = (
        dataset.select_columns(list(_READ))
        .with_format("arrow")
        .map(
            partial(_jet_features, schema=schema),
            batched=True,
            batch_size=_PIECE,
            features=Features({name: Value("float64") for name in names}),
            remove_columns=list(_READ),
            new_fingerprint=digest_of(made_by)[:16],
            desc="Jet variables",
        )
    )
    return {name: measure.column(made, name) for name in names}


def candidate_features(dataset: Dataset) -> dict[str, np.ndarray]:
    """[`CANDIDATE_VARIABLES`] `(num_jets,)`, masses in GeV, NaN of jets with too few candidates.

    Nothing unless all jets have candidates: whether one has them could tell its class.
    """
    if not {*CANDIDATE_VARIABLES} <= {*dataset.column_names}:
        return {}
    features = {name: measure.column(dataset, name) for name in CANDIDATE_VARIABLES}
    return features if np.isfinite(features["reco_multiplicity"]).all() else {}


def _jet_features(table: pa.Table, schema: DatasetSchema) -> pa.Table:
    number, pixels = len(table), _pixels(table, schema)
    calorimeter = _calorimeter(pixels)
    centre = _centre(calorimeter, number)
    near = {name: _near(channel, *centre, JET_RADIUS) for name, channel in pixels.items()}
    calorimeter = _near(calorimeter, *centre, JET_RADIUS)
    features = _calorimeter_features(calorimeter, near, centre, number)
    tracks = near["trk_pt"]
    d0, dz = (_values_at(tracks, near[name]) for name in ("trk_d0", "trk_dz"))
    features |= _track_features(tracks, np.abs(dz) < _PRIMARY_DZ, centre, number)
    for layer in (1, 2, 3):
        hits = near[f"bpix{layer}"]
        features[f"hits_{layer}"] = hits.sum(hits.value, number)
        core = _near(hits, *centre, _SUBJET_RADIUS)
        features[f"core_hits_{layer}"] = core.sum(core.value, number)
    features |= _impact_features(tracks.jet, np.abs(d0), np.abs(dz) < _DISPLACED_DZ, number)
    names = [name for group in FEATURE_GROUPS.values() for name in group]
    return pa.table({name: np.nan_to_num(features[name]).astype(float) for name in names})


def variables(features: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """The variables of the groups `names` of [`FEATURE_GROUPS`], or `candidates`, `(num_jets, num_variables)`."""
    groups = FEATURE_GROUPS | {"candidates": CANDIDATE_VARIABLES}
    return np.stack([features[name] for group in names for name in groups[group]], axis=1)


def _calorimeter(pixels: dict[str, Pixels]) -> Pixels:
    ecal, hcal = pixels["ecal"], pixels["hcal"]
    return Pixels(*(np.concatenate([getattr(ecal, name), getattr(hcal, name)]) for name in vars(ecal)))


def _centre(pixels: Pixels, num_jets: int):
    """Weighted mean of eta and phi within the radius of the hottest pixel, then twice within that mean's."""
    order = np.argsort(pixels.value, kind="stable")
    eta, phi = np.zeros(num_jets), np.zeros(num_jets)
    eta[pixels.jet[order]], phi[pixels.jet[order]] = (
        pixels.eta[order],
        pixels.phi[order],
    )  # the hottest comes last
    for _ in range(3):
        near = _near(pixels, eta, phi, JET_RADIUS)
        total = np.maximum(near.sum(near.value, num_jets), 1e-9)
        eta = near.sum(near.value * near.eta, num_jets) / total
        phi = near.sum(near.value * near.phi, num_jets) / total
    return eta, phi


def _near(pixels: Pixels, eta, phi, radius: float) -> Pixels:
    return pixels.select(np.hypot(pixels.eta - eta[pixels.jet], pixels.phi - phi[pixels.jet]) < radius)


def _values_at(places: Pixels, channel: Pixels) -> np.ndarray:
    """The values of a channel in the pixels of another; 0 where it has none."""
    wanted, known = (
        (pixels.jet * ROWS + pixels.row) * COLUMNS + np.rint(np.degrees(pixels.phi)).astype(np.int64) % COLUMNS
        for pixels in (places, channel)
    )
    if not len(known):
        return np.zeros(len(wanted))
    order = np.argsort(known)
    nearest = order[np.searchsorted(known[order], wanted).clip(max=len(known) - 1)]
    return np.where(known[nearest] == wanted, channel.value[nearest], 0.0)


def _calorimeter_features(cells: Pixels, near: dict[str, Pixels], centre, number: int) -> dict[str, np.ndarray]:
    pt = np.maximum(cells.sum(cells.value, number), 1e-9)
    mass = cells.mass(number)
    d_eta, d_phi = cells.eta - centre[0][cells.jet], cells.phi - centre[1][cells.jet]
    radius, weight = np.hypot(d_eta, d_phi), cells.value / pt[cells.jet]
    tensor = [
        cells.sum(weight * one * other, number) for one, other in ((d_eta, d_eta), (d_eta, d_phi), (d_phi, d_phi))
    ]
    root = np.sqrt((tensor[0] - tensor[2]) ** 2 / 4 + tensor[1] ** 2)
    ecal, hcal = near["ecal"], near["hcal"]
    features = {
        "mass": mass,
        "width": cells.sum(weight * radius, number),
        "pt": pt,
        "mass_over_pt": mass / pt,
        "num_crystals": ecal.sum(None, number),
        "num_towers": hcal.sum(None, number) / TOWER**2,
        "ecal_fraction": ecal.sum(ecal.value, number) / pt,
        "pt_dispersion": np.sqrt(cells.sum(weight**2, number)),
        "major": (tensor[0] + tensor[2]) / 2 + root,
        "minor": (tensor[0] + tensor[2]) / 2 - root,
    }
    inner = 0.0
    for i, outer in enumerate(_RINGS):
        features[f"ring_{i}"] = cells.sum(weight * ((radius >= inner) & (radius < outer)), number)
        inner = outer
    parts = []
    for start in range(0, number, _CHUNK):
        some = (cells.jet >= start) & (cells.jet < min(start + _CHUNK, number))
        parts.append(_substructure(cells.select(some), start, min(_CHUNK, number - start)))
    return features | {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _substructure(cells: Pixels, start: int, number: int) -> dict[str, np.ndarray]:
    """Energy correlations (JHEP 06 (2013) 108; D2: JHEP 12 (2014) 009) and N-subjettiness (JHEP 03 (2011) 015).

    From the 40 hottest cells of a grid of towers. The axes of N-subjettiness are the hottest cell, then the cell with
    the largest pT times squared distance from the axes so far.
    """
    cell = np.round(cells.eta / 0.087).astype(np.int64) * 1000 + np.floor(cells.phi / 0.0872665).astype(np.int64)
    key, inverse = np.unique(np.stack([cells.jet - start, cell]), axis=1, return_inverse=True)
    pt = np.bincount(inverse, cells.value)
    eta, phi = (np.bincount(inverse, cells.value * x) / np.maximum(pt, 1e-12) for x in (cells.eta, cells.phi))
    order = np.lexsort((-pt, key[0]))
    jet = key[0][order]
    rank = np.arange(len(jet)) - np.searchsorted(jet, jet)
    kept = rank < 40
    dense = np.zeros((3, number, 40))
    for plane, column in zip(dense, (pt, eta, phi)):
        plane[jet[kept], rank[kept]] = column[order][kept]
    pt, eta, phi = dense
    z = pt / np.maximum(pt.sum(axis=1, keepdims=True), 1e-9)
    distance = np.hypot(eta[:, :, None] - eta[:, None], phi[:, :, None] - phi[:, None])
    pairs = z[:, :, None] * z[:, None] * distance
    e2 = pairs.sum(axis=(1, 2)) / 2
    # sum over triples of z z z times the product of their three distances
    e3 = (
        np.einsum("jab,jbc,jac->j", pairs * distance / np.maximum(distance, 1e-12), distance * z[:, None], distance)
        / 6
    )
    features = {"e2": e2, "c2": e3 / np.maximum(e2**2, 1e-12), "d2": e3 / np.maximum(e2**3, 1e-12)}
    features |= {f"leading_{i}": z[:, :i].sum(axis=1) for i in (1, 2, 3, 5)}
    everyone, closest = np.arange(number), np.full(pt.shape, np.inf)
    axis = np.zeros(number, dtype=np.int64)
    tau = {}
    for n in (1, 2, 3):
        closest = np.minimum(closest, distance[everyone, axis])
        tau[n] = (z * closest).sum(axis=1) / JET_RADIUS
        if n > 1:
            inside = pt * (closest < _SUBJET_RADIUS)
            features[f"mass_{n}_subjets"] = _mass(inside, eta, phi)
        axis = (z * closest**2).argmax(axis=1)
    ratios = {"tau21": tau[2] / np.maximum(tau[1], 1e-9), "tau32": tau[3] / np.maximum(tau[2], 1e-9)}
    return features | {"tau1": tau[1]} | ratios


def _mass(pt, eta, phi):
    e, x, y, z = ((pt * factor).sum(axis=1) for factor in (np.cosh(eta), np.cos(phi), np.sin(phi), np.sinh(eta)))
    return np.sqrt(np.maximum(e**2 - x**2 - y**2 - z**2, 0.0))


def _track_features(tracks: Pixels, primary, centre, number: int) -> dict[str, np.ndarray]:
    chosen = tracks.select(primary)
    pt = np.maximum(chosen.sum(chosen.value, number), 1e-9)
    everything = tracks.sum(tracks.value, number)
    radius = np.hypot(chosen.eta - centre[0][chosen.jet], chosen.phi - centre[1][chosen.jet])
    leading = np.zeros(number)
    np.maximum.at(leading, chosen.jet, chosen.value)
    return {
        "num_tracks": chosen.sum(None, number),
        "num_all_tracks": tracks.sum(None, number),
        "track_pt": pt,
        "all_track_pt": everything,
        "track_mass": chosen.mass(number),
        "track_width": chosen.sum(chosen.value * radius, number) / pt,
        "track_pt_dispersion": np.sqrt(chosen.sum(chosen.value**2, number)) / pt,
        "track_fraction": pt / np.maximum(everything, 1e-9),
        "leading_track": leading / pt,
    }


def _impact_features(jet, d0, near_vertex, number: int) -> dict[str, np.ndarray]:
    jet, d0 = jet[near_vertex], d0[near_vertex]
    count = np.bincount(jet, minlength=number)
    features = {f"num_d0_{cut:g}": np.bincount(jet[d0 > cut], minlength=number) for cut in _D0_CUTS}
    total = np.bincount(jet, d0, minlength=number)
    order = np.lexsort((-d0, jet))
    rank = np.arange(len(jet)) - np.searchsorted(jet[order], jet[order])
    largest = np.zeros((number, 3))
    first = rank < 3
    largest[jet[order][first], rank[first]] = d0[order][first]
    features |= {"sum_d0": total, "mean_d0": total / np.maximum(count, 1)}
    return features | {f"d0_{i + 1}": largest[:, i] for i in range(3)}
