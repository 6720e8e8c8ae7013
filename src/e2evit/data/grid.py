"""The detector grid of CMS E2E images: 280 x 360 crystals, 56 x 72 towers, and the 125 x 125 window around a jet.

Conventions of RecHitAnalyzer (github.com/bhbam/MLAnalyzer@4bf821c): rows are eta, columns phi; 55 rows of
pseudo-crystals on each side extend the 170 of the barrel to |eta| = 3; every fifth edge is an HCAL tower edge.
"""

import numpy as np

__all__ = [
    "COLUMNS",
    "ENDCAP_FACTOR",
    "ENDCAP_ROWS",
    "ETA_EDGES",
    "JET_MAX_ETA",
    "JET_RADIUS",
    "ROWS",
    "SEED_ROWS",
    "SEED_SEARCH",
    "TOWER",
    "WINDOW",
    "column_of",
    "eta_centres",
    "position_in_grid",
    "resample_endcaps",
    "seed_towers",
    "window_centres",
]

_ENDCAP_EDGES = [
    *(1.479, 1.4964, 1.5138, 1.5312, 1.5486, 1.566, 1.5834, 1.6008, 1.6182, 1.6356, 1.653, 1.6704, 1.6878, 1.7052),
    *(1.7226, 1.74, 1.758, 1.776, 1.794, 1.812, 1.83, 1.85, 1.87, 1.89, 1.91, 1.93, 1.9526, 1.9752, 1.9978, 2.0204),
    *(2.043, 2.0688, 2.0946, 2.1204, 2.1462, 2.172, 2.202, 2.232, 2.262, 2.292, 2.322, 2.3576, 2.3932, 2.4288),
    *(2.4644, 2.5, 2.53, 2.56, 2.59, 2.62, 2.65, 2.72, 2.79, 2.86, 2.93, 3.0),
]
_BARREL_EDGES = np.linspace(-1.479, 1.479, 171)

ETA_EDGES = np.concatenate([-np.array(_ENDCAP_EDGES[:0:-1]), _BARREL_EDGES, _ENDCAP_EDGES[1:]])
ROWS, COLUMNS = 280, 360
ENDCAP_ROWS = len(_ENDCAP_EDGES) - 1  # rows of each endcap
ENDCAP_FACTOR = 4.0  # ECAL energies in the endcaps of a CMS image are the measured ones divided by this
TOWER = 5  # crystals along a side of an HCAL tower
WINDOW = 125  # crystals along a side of a jet image
JET_RADIUS = 0.8  # of the anti-kt jets
JET_MAX_ETA = 1.37  # of the jet axis, as in CMS's JetFrameProducer
# first and last tower row whose window lies entirely on the grid (jetSeed_ieta)
SEED_ROWS = (WINDOW // TOWER // 2, ROWS // TOWER - 1 - WINDOW // TOWER // 2)
SEED_SEARCH = 3  # towers on each side of the axis: 7 x 7
SEED_MIN_ENERGY = 5.0  # GeV; below it, noise and pile-up would place the window of a photon jet


def position_in_grid(eta, phi):
    """Continuous row and column of a direction: the integer part is the crystal, the fraction the position in it.

    `phi` [radians] may lie in any range. Directions beyond |eta| = 3 get a row outside [0, 280).
    """
    eta = np.asarray(eta)
    row = np.searchsorted(ETA_EDGES, eta, side="right") - 1
    inside = np.clip(row, 0, ROWS - 1)
    fraction = (eta - ETA_EDGES[inside]) / (ETA_EDGES[inside + 1] - ETA_EDGES[inside])
    fraction = np.where(row == inside, np.clip(fraction, 0, np.nextafter(1.0, 0.0)), 0.5)
    return row + fraction, column_of(phi)


def column_of(phi):
    """Continuous column of a direction `phi` [radians]; column 0 begins at -10 degrees."""
    return np.mod(np.degrees(phi) + 10.0, COLUMNS)


def eta_centres(rows):
    """Pseudorapidity at the centres of `rows`."""
    rows = np.asarray(rows)
    return 0.5 * (ETA_EDGES[rows] + ETA_EDGES[rows + 1])


def window_centres(ieta: int, iphi: int):
    """Eta and phi [radians] of the 125 rows and columns of the window around seed tower `(ieta, iphi)`.

    phi is continuous across the window, so it may leave [-pi, pi).
    """
    half = WINDOW // 2
    rows = ieta * TOWER + TOWER // 2 + np.arange(-half, half + 1)
    columns = iphi * TOWER + TOWER // 2 + np.arange(-half, half + 1)
    return eta_centres(rows), np.radians(columns + 0.5 - 10.0)


def resample_endcaps(images: np.ndarray) -> None:
    """Average ECAL energies `(n, 280, 360)` in blocks of 2 x 2 in the endcaps and divide them by 4, in place.

    `resample_EE` of convertRootFiles/convert_root2pq_jet.py: the 55 rows of an endcap and one of zeros are 28 blocks.
    """
    for rows, padding in ((slice(None, ENDCAP_ROWS), (1, 0)), (slice(-ENDCAP_ROWS, None), (0, 1))):
        padded = np.pad(images[:, rows].astype(np.float64), ((0, 0), padding, (0, 0)))
        sums = padded.reshape(len(images), -1, 2, COLUMNS // 2, 2).sum(axis=(2, 4)) / (4 * ENDCAP_FACTOR)
        blocks = sums.repeat(2, axis=1).repeat(2, axis=2)
        images[:, rows] = blocks[:, padding[0] : padding[0] + ENDCAP_ROWS]


def seed_towers(
    towers: np.ndarray, event, eta, phi, rows: tuple[int, int] = (0, ROWS // TOWER - 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Row (jetSeed_ieta) and column (jetSeed_iphi) of the hottest of the 7 x 7 towers around each jet axis.

    If none reaches 5 GeV, the tower on the axis is the seed: a jet of two photons leaves nothing in the HCAL.

    Args:
        towers: `(num_events, 56, 72)` [GeV].
        event, eta, phi: `(n,)` of the jets; phi in radians.
        rows: First and last row in which a seed may lie.
    """
    row, column = (np.floor(x).astype(np.int64) // TOWER for x in position_in_grid(eta, phi))
    search = np.arange(-SEED_SEARCH, SEED_SEARCH + 1)
    near_rows = np.clip(row[:, None] + search, *rows)
    near_columns = (column[:, None] + search) % (COLUMNS // TOWER)
    window = towers[np.asarray(event)[:, None, None], near_rows[:, :, None], near_columns[:, None, :]]
    window = window.reshape(len(window), search.size**2)
    hottest, index = window.argmax(axis=1), np.arange(len(window))
    real = window[index, hottest] >= SEED_MIN_ENERGY
    seed_row, seed_column = near_rows[index, hottest // search.size], near_columns[index, hottest % search.size]
    return np.where(real, seed_row, row), np.where(real, seed_column, column)
