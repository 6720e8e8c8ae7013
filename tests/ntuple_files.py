"""Files in the layouts of RecHitAnalyzer and SCRegressor, with random events, and the rows they hold."""

from pathlib import Path
from zlib import crc32

import numpy as np

from e2evit.data import SCHEMAS
from e2evit.data.files import list_pieces, read_rows
from e2evit.data.schema import DatasetSchema

LABELS = ("jetIsQuark", "jet_IsTau", "jet_IsEle")
LAYOUTS = [  # data set, variant, how images are written
    *(("ntuple_5", schema.variant, "fixed") for schema in SCHEMAS["ntuple_5"]),
    *((name, "a to tau tau", "lists") for name in ("ntuple", "ntuple_8", "ntuple_5_aod", "ntuple_5_miniaod")),
    *((name, "quark and gluon", "lists") for name in ("ntuple_3", "ntuple_2016")),
    ("ntuple_resampled", "quark and gluon", "fixed"),
    ("ntuple_events", "", "fixed"),
    ("ntuple_events_resampled", "", "fixed"),
    ("ntuple_events_8", "", "lists"),
]
RANGES = {"jetSeed_ieta": (12, 44), "jetSeed_iphi": (0, 72)} | dict.fromkeys(LABELS, (0, 2))


def variant(name: str, version: str = "") -> DatasetSchema:
    return next(schema for schema in SCHEMAS[name] if version in ("", schema.variant))


def events(schema: DatasetSchema, jets: tuple[int, ...], one_in: int = 97) -> dict[str, list]:
    """What each branch holds, event by event: numbers, lists, or lists of crops; the same in every version of NumPy.

    Args:
        jets: How many each event has.
        one_in: Of so many pixels one is not zero.
    """
    branches = {"runId": [1] * len(jets), "lumiId": [7] * len(jets)}
    branches["eventId"] = [2**40 + event for event in range(len(jets))]
    for name, key in schema.branches.items():
        for event, count in enumerate(jets):
            shape = (count, 32, 32) if schema.one_row == "crop" else (56, 72) if name == "hcal" else (280, 360)
            number = _numbers(key, event, int(np.prod(shape)))
            value = (number >> 9) % 399 + 1  # in steps that are exact in float32, whatever they are divided by
            value = np.where(schema.channel(name).signed & (number >> 20) & 1, -value, value) * np.float32(6.25)
            image = np.where(number % one_in == 0, value, 0).astype(np.float32)
            branches.setdefault(key, []).append(image.reshape(shape))
    for source in schema.sources.values():
        for key in source.keys:
            low, high = RANGES.get(key, (2, 18))
            for event, count in enumerate(jets):
                number = _numbers(key, event, 1 if source.per == "particle" else count)
                branches.setdefault(key, []).append((low + (number >> 9) % (high - low)).astype(np.float32))
    for key in schema.present:  # of any length, since it is no column
        branches[key] = [np.ones(3, np.float32)] * len(jets)
    return branches


def _numbers(key: str, event: int, count: int) -> np.ndarray:
    """Numbers below 2^32 that look random."""
    number = np.arange(count, dtype=np.uint64) * 2654435761 + crc32(f"{key} {event}".encode())
    number = (number ^ (number >> 13)) * 1274126177 % 2**32
    return (number ^ (number >> 16)).astype(np.int64)


def rows_of(path, schema, on_bad_rows=None):
    """The rows of a file, read two entries at a time."""
    more = () if on_bad_rows is None else (on_bad_rows,)
    pieces = list_pieces(str(path), path.name, schema, 2)
    return [row for piece in pieces for table in read_rows(piece, schema, *more) for row in table.to_pylist()]


def write(
    path: Path, branches: dict[str, list], tree: str = "fevt/RHTree", images: str = "fixed", kind: str = "TTree"
) -> Path:
    """Write a tree, with arrays of fixed size for images, or lists. In a TTree lists have a counter: uproot writes no
    `std::vector`, and damages lists of lists (`var * 1024 * float32`, 5.7.7).
    """
    import awkward as ak
    import uproot

    types, columns = {}, {}
    path.parent.mkdir(exist_ok=True)
    for key, values in branches.items():
        first = np.asarray(values[0])
        if first.ndim == 0:
            types[key], columns[key] = "uint64", np.array(values, np.uint64)
        elif first.ndim == 3 and kind == "RNTuple":  # crops
            numbers = np.concatenate([value.reshape(-1) for value in values])
            crops = ak.unflatten(numbers, [first.shape[1] * first.shape[2]] * sum(map(len, values)))
            columns[key] = ak.unflatten(crops, [len(value) for value in values])
        elif images == "fixed" and first.ndim == 2 and len({value.size for value in values}) == 1:
            types[key], columns[key] = f"{first.size} * float32", np.stack([value.reshape(-1) for value in values])
        else:
            types[key] = "var * float32"
            flat = [np.asarray(value, np.float32).reshape(-1) for value in values]
            columns[key] = ak.unflatten(np.concatenate(flat), [value.size for value in flat])
    with uproot.recreate(path) as file:
        if kind == "RNTuple":
            file.mkrntuple(tree, columns)
        else:
            file.mktree(tree, types).extend(columns)
    return path


def expected(schema: DatasetSchema, branches: dict[str, list]) -> list[dict]:
    """The rows of the events, pixel by pixel: images and the columns that are not null."""
    rows = []
    for event, numbers in enumerate(zip(*(branches[key] for key in ("runId", "lumiId", "eventId")))):
        counts = [len(branches[key][event]) for source in schema.sources.values() for key in source.keys]
        for jet in range(1 if schema.one_row == "event" else max(counts)):
            row = {
                name: branches[source.keys[0]][event][jet if source.per == "jet" else 0]
                for name, source in schema.sources.items()
                if source.keys
            }
            row["event_id"] = ":".join(map(str, numbers))
            row["image"] = np.stack(
                [_image(schema, name, branches[key][event], jet, row) for name, key in schema.branches.items()]
            )
            rows.append(row)
    return rows


def _image(schema: DatasetSchema, name: str, values: np.ndarray, jet: int, row: dict) -> np.ndarray:
    if schema.one_row == "crop":
        return values[jet]
    if values.shape == (56, 72):
        values = np.kron(values, np.ones((5, 5))) / 25
    elif name == "ecal" and schema.resample_endcaps:
        values = resampled(values)
    if schema.one_row == "jet":
        row_0, column_0 = 5 * int(row["ieta"]) + 2 - 62, 5 * int(row["iphi"]) + 2 - 62
        values = np.roll(values, -column_0, axis=1)[row_0 : row_0 + 125, :125]
    return values.astype(np.float32)


def resampled(image: np.ndarray) -> np.ndarray:
    """As `resample_EE` of convertRootFiles/convert_root2pq_jet.py, block by block."""
    result = image.astype(np.float64)
    for endcap, first in ((range(55), -1), (range(225, 280), 225)):
        for top in range(first, endcap[-1] + 1, 2):
            rows = [row for row in (top, top + 1) if row in endcap]
            for column in range(0, 360, 2):
                result[rows, column : column + 2] = image[rows, column : column + 2].astype(np.float64).sum() / 16
    return result


def vector_events() -> dict[str, list]:
    """What `data/ntuple/vectors.root` holds."""
    jets, photons = variant("ntuple_5"), variant("ntuple_photons")
    branches = events(photons, (2, 1), one_in=211) | events(jets, (2, 1), one_in=4999)
    return branches | {"A_mass": [np.array([4.0, 5.0], np.float32), np.array([6.0], np.float32)]}
