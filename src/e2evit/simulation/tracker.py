"""Tracks: efficiency, resolution, and the channels they fill at the ECAL face."""

import numpy as np

from e2evit.data.helix import impact_parameters

from .batch import EventBatch
from .cells import Frames, pick, structured
from .crowding import crowding
from .fakes import with_fakes
from .geometry import Geometry
from .material import SECONDARY_RADIUS, traceable
from .streams import Random, draw
from .vertices import RESOLUTION

__all__ = ["MAX_ETA", "MIN_PT", "TRACK", "reconstruct_tracks", "track_channels"]

# crystal at the ECAL face; transverse momentum [GeV], direction at the vertex, signed impact parameters and their
# uncertainties [cm]; dz is relative to the middle of the detector until the primary vertex is known. Truth: the PDG
# code, and whether the track comes from pile-up
TRACK = np.dtype(
    [("event", "i4"), ("row", "i2"), ("column", "i2")]
    + [(name, "f4") for name in ("pt", "eta", "phi", "d0", "dz", "d0_error", "dz_error")]
    + [("pdg_id", "i2"), ("pileup", "?")]
)

MIN_PT, MAX_ETA = 0.5, 2.5  # MLAnalyzer's cut on pT [GeV]; acceptance of the tracker
# high-purity tracks of charged pions, which nuclear interactions reduce most: JINST 9 (2014) P10009, section 4; the
# efficiency falls to zero for particles produced half a metre from the beam
EFFICIENCY, SOFT_EFFICIENCY, SOFT_PT, FADE_RADIUS = 0.93, 0.85, 0.9, 50.0
WITHOUT_NUCLEAR = 0.99  # of particles that do not interact, same paper: muons
# the same relative to particles from the beam, by the distance from it at which they are produced [cm]: figure 12
DECAY_RADIUS = (0, 1, 3, 5, 7, 9, 11, 25, 37, 45, 49, 53, 57, 60, 65)
DECAY_EFFICIENCY = (1, 0.98, 0.9, 0.83, 0.74, 0.7, 0.64, 0.62, 0.55, 0.5, 0.4, 0.3, 0.24, 0.16, 0)
# what that distance adds to the resolution of d0 and dz: a constant and a multiple-scattering [GeV] term, as in the 20
# real jets in tests/data
DECAY_D0, DECAY_DZ = (0.002, 0.004), (0.006, 0.012)
# a crossing of each other's clusters loses one of two tracks: tuned to 0.8 for the efficiency within 0.02 of the axis
# of jets of 1.4 to 1.6 TeV, EPJ C 77 (2017) 673 (ATLAS)
CORE_LOSS = 0.06
# share of tracks in the tails of d0 and dz, in addition for each overlap with another, and how much wider those are:
# tuned to the 20 real jets at 1 to 3 GeV and beyond 10 GeV; JINST 9 (2014) P10009 section 5 shows 68 % and 90 %
TAIL, CORE_TAIL, TAIL_WIDTH = 0.06, 0.1, 3.0
# relative resolution of pT: about 1 % for 1 to 10 GeV, 2.8 % at 100 GeV (same paper, abstract and section 5)
PT_CONSTANT, PT_SLOPE = 0.010, 2.6e-4
# of phi [radians]; of cot(theta), cosh(eta) times as much: constant and multiple-scattering [GeV] terms, same paper,
# section 5
ANGLE_CONSTANT, ANGLE_SCATTERING = 2e-4, 1.5e-3
VERTEX_D0_ERROR, VERTEX_DZ_ERROR = 1.0e-3, 1.5e-3  # of the primary vertex of a hard event [cm], same paper, section 6


def reconstruct_tracks(
    batch: EventBatch, vertex_z, row, column, on_grid, geometry: Geometry, rng: Random
) -> np.ndarray:
    """Reconstructed tracks, as `TRACK`; `row` and `column` are where the particles reach the ECAL."""
    pt = np.hypot(batch.momentum[:, 0], batch.momentum[:, 1])
    eta = np.arcsinh(batch.momentum[:, 2] / np.maximum(pt, 1e-9))
    efficiency = np.where(pt < SOFT_PT, SOFT_EFFICIENCY, EFFICIENCY)
    radius, effects = np.hypot(batch.vertex[:, 0], batch.vertex[:, 1]), geometry.effects
    if "decays" in effects:
        found = np.interp(radius, DECAY_RADIUS, DECAY_EFFICIENCY)
    else:
        found = np.clip(1.0 - radius / FADE_RADIUS, 0.0, 1.0)
    efficiency *= np.where(batch.secondary, np.clip(1.0 - radius / SECONDARY_RADIUS, 0.0, 1.0), found)
    if "nuclear" in effects:
        efficiency *= np.where(traceable(batch.until, eta), WITHOUT_NUCLEAR / EFFICIENCY, 0.0)
    kept = on_grid & (batch.charge != 0) & (pt > MIN_PT) & (np.abs(eta) < MAX_ETA)
    overlap, neighbours = np.zeros(len(kept)), np.zeros(len(kept), int)
    if effects & {"dense_cores", "fakes", "tails"}:
        azimuth = np.arctan2(batch.momentum[kept, 1], batch.momentum[kept, 0])
        overlap[kept], neighbours[kept] = crowding(batch.event[kept], eta[kept], azimuth)
    if "dense_cores" in effects:
        efficiency *= np.exp(-CORE_LOSS * overlap)
    kept &= draw(rng, "random", batch.event) < efficiency
    pt, eta, event, radius, overlap = pt[kept], eta[kept], batch.event[kept], radius[kept], overlap[kept]
    phi = np.arctan2(batch.momentum[kept, 1], batch.momentum[kept, 0])
    d0, dz = impact_parameters(batch.momentum[kept], batch.charge[kept], batch.vertex[kept])
    # the path length in a layer grows with 1 / sin(theta), and so does scattering
    scattering = np.cosh(eta) ** 0.5 / pt
    d0_error = np.hypot(geometry.d0_resolution[0], geometry.d0_resolution[1] * scattering)
    dz_error = np.hypot(geometry.dz_resolution[0], geometry.dz_resolution[1] * scattering * np.cosh(eta))
    if "decays" in effects:
        d0_error = np.hypot(d0_error, radius * np.hypot(DECAY_D0[0], DECAY_D0[1] * scattering))
        dz_error = np.hypot(dz_error, radius * np.hypot(DECAY_DZ[0], DECAY_DZ[1] * scattering))
    stretch = 1.0
    if "tails" in effects:
        stretch = np.where(draw(rng, "random", event) > 1 - TAIL - CORE_TAIL * overlap, TAIL_WIDTH, 1.0)
    if "vertex" in effects:
        x, y = (draw(rng, "normal", np.arange(batch.num_events), 0.0, RESOLUTION)[event] for _ in range(2))
        d0 = d0 - x * np.sin(phi) + y * np.cos(phi)
    angle_error = np.hypot(ANGLE_CONSTANT, ANGLE_SCATTERING * scattering)
    tracks = structured(
        TRACK,
        event=event,
        row=row[kept],
        column=column[kept],
        pt=pt * (1 + draw(rng, "normal", event, 0.0, np.hypot(PT_CONSTANT, PT_SLOPE * pt))),
        d0=d0 + draw(rng, "normal", event, 0.0, stretch * d0_error),
        dz=dz + vertex_z[event] + draw(rng, "normal", event, 0.0, stretch * dz_error),
        d0_error=d0_error,
        dz_error=dz_error,
        eta=np.arcsinh(np.sinh(eta) + draw(rng, "normal", event, 0.0, angle_error * np.cosh(eta))),
        phi=phi + draw(rng, "normal", event, 0.0, angle_error),
        pdg_id=batch.pdg_id[kept],
    )
    return with_fakes(tracks, neighbours[kept], MIN_PT, rng) if "fakes" in effects else tracks


def track_channels(frames: Frames, tracks, vertex_z, num_columns: int) -> dict[str, tuple]:
    """Sum of pT over the tracks of each crystal, and unweighted means of d0 and dz [cm], plain and in units of their
    uncertainties.

    As in MLAnalyzer's fillTracksAtECALstitched: d0 and dz refer to the primary vertex, uncertainties include its own.
    """
    frame, row, column, hit = frames.locate(tracks["event"], tracks["row"], tracks["column"], num_columns)
    track, relative = pick(tracks, hit), tracks["dz"][hit] - vertex_z[tracks["event"][hit]]
    pixel, first, counts = np.unique(
        (frame * frames.height + row) * frames.width + column, return_inverse=True, return_counts=True
    )
    values = {
        "trk_pt": track["pt"] * 1.0,
        "trk_d0": track["d0"],
        "trk_dz": relative,
        "trk_d0_sig": track["d0"] / np.hypot(track["d0_error"], VERTEX_D0_ERROR),
        "trk_dz_sig": relative / np.hypot(track["dz_error"], VERTEX_DZ_ERROR),
    }
    sums = {name: np.bincount(first, value, minlength=len(pixel)) for name, value in values.items()}
    return {name: (pixel, total if name == "trk_pt" else total / counts) for name, total in sums.items()}
