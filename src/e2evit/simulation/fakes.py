"""Tracks that no particle made, and tracks that were found twice.

Hits of different particles make a fake: there are more of them where tracks are dense, and in events with many
collisions. In JINST 9 (2014) P10009, section 4, about one high-purity track in a hundred of a t tbar event is a fake;
how the rate rises, and the spectra of fakes, were chosen, their d0 [cm] as that of the far tracks of the 20 real jets.
"""

import numpy as np

from e2evit.data.grid import COLUMNS, ROWS

from .cells import pick
from .streams import Random, draw

__all__ = ["with_chance_tracks", "with_fakes"]

FAKES = 0.007  # fakes per track
FAKES_PER_NEIGHBOUR = 0.003  # more of them for each other track within 0.05 in eta and phi
DUPLICATES = 0.002  # duplicates per track
DUPLICATES_PER_NEIGHBOUR = 0.0005  # more of them for each such neighbour
FAKES_PER_COLLISION = 0.0007  # fakes per track for each collision of the event
FAR = 0.6  # share of fakes without pixel hits
FAR_D0 = 3.0  # scale of the exponential tails of their d0 [cm]
FAR_DZ = 3.0  # and of their dz [cm]
FAR_D0_ERROR = 0.03  # uncertainty of their d0 over d0
FAR_DZ_ERROR = 0.1  # uncertainty of their dz over dz
NEAR_ERRORS = 5.0  # spread of d0 and dz of the other fakes, in units of their uncertainties
DUPLICATE_ERRORS = 2.0  # spread of d0 and dz of duplicates around the first track, in the same units
SHIFT = 2.0  # spread of the distance between a fake and the track that lends its hits, in crystals
CRYSTAL = 2 * np.pi / COLUMNS  # size of a crystal [radians]


def with_fakes(tracks: np.ndarray, neighbours: np.ndarray, smallest_pt: float, rng: Random) -> np.ndarray:
    """Tracks of a collision with the fakes and duplicates that crowding makes.

    Args:
        tracks: `TRACK`.
        neighbours: Of each track, within 0.05 in eta and phi.
        smallest_pt: Of a track [GeV].
    """
    fake = FAKES + FAKES_PER_NEIGHBOUR * neighbours
    duplicate = DUPLICATES + DUPLICATES_PER_NEIGHBOUR * neighbours
    chance = draw(rng, "random", tracks["event"])
    seeds = chance > 1 - fake - duplicate
    copies = pick(tracks, seeds)
    twice = chance[seeds] > 1 - duplicate[seeds]
    fakes, again = _scrambled(pick(copies, ~twice), smallest_pt, rng), pick(copies, twice)
    for name in ("d0", "dz"):
        again[name] += draw(rng, "normal", again["event"], 0.0, DUPLICATE_ERRORS * again[f"{name}_error"])
    return _merged(tracks, fakes, again)


def with_chance_tracks(tracks: np.ndarray, number: np.ndarray, smallest_pt: float, rng: Random) -> np.ndarray:
    """Tracks of whole events with the fakes that hits of `number` `(num_events,)` collisions make."""
    chance = draw(rng, "random", tracks["event"])
    seeds = pick(tracks, chance > 1 - FAKES_PER_COLLISION * number[tracks["event"]])
    return _merged(tracks, _scrambled(seeds, smallest_pt, rng))


def _merged(*parts: np.ndarray) -> np.ndarray:
    tracks = np.concatenate(parts)
    return pick(tracks, np.argsort(tracks["event"], kind="stable"))


def _scrambled(fakes: np.ndarray, smallest_pt: float, rng: Random) -> np.ndarray:
    """Tracks made fakes: softer, beside the seed, with impact parameters of their own."""
    event = fakes["event"]
    fakes["pt"] = smallest_pt + (fakes["pt"] - smallest_pt) * draw(rng, "random", event) ** 3
    for place, angle in (("row", "eta"), ("column", "phi")):
        shift = np.round(draw(rng, "normal", event, 0.0, SHIFT)).astype("i2")
        fakes[place] += shift
        fakes[angle] += CRYSTAL * shift
    fakes["column"] %= COLUMNS
    fakes["row"] = fakes["row"].clip(0, ROWS - 1)
    fakes["pdg_id"] = np.where(draw(rng, "random", event) < 0.5, 211, -211)
    far = draw(rng, "random", event) < FAR
    d0, dz = (draw(rng, "laplace", event, 0.0, scale) for scale in (FAR_D0, FAR_DZ))
    fakes["d0"] = np.where(far, d0, draw(rng, "normal", event, 0.0, NEAR_ERRORS * fakes["d0_error"]))
    fakes["dz"] += np.where(far, dz, draw(rng, "normal", event, 0.0, NEAR_ERRORS * fakes["dz_error"]))
    for name, share in (("d0_error", FAR_D0_ERROR), ("dz_error", FAR_DZ_ERROR)):
        fakes[name] = np.where(far, np.hypot(fakes[name], share * fakes["d0"]), fakes[name])
    return fakes
