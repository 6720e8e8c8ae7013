"""The columns of sparse rows, and the channels their images may have."""

from dataclasses import dataclass

from pydantic import ConfigDict, StrictBool

__all__ = [
    "CANDIDATE_COLUMNS",
    "CANDIDATE_TRUTH",
    "CHANNELS",
    "IMAGE_COLUMNS",
    "LISTS",
    "PARTICLE_COLUMNS",
    "ROW_COLUMNS",
    "STRICT_KEYS",
    "Channel",
]

STRICT_KEYS = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


@dataclass(frozen=True)
class Channel:
    """One detector layer of an image; only a `signed` channel may hold negative values."""

    __pydantic_config__ = STRICT_KEYS

    unit: str
    title: str
    signed: StrictBool = False


CHANNELS = {
    "trk_pt": Channel("GeV", "Track $p_T$"),
    "trk_d0": Channel("cm", "Track $d_0$", signed=True),
    "trk_dz": Channel("cm", "Track $d_z$", signed=True),
    "ecal": Channel("GeV", "ECAL energy"),
    "hcal": Channel("GeV", "HCAL energy / 25"),
    "ecal_et": Channel("GeV", "ECAL transverse energy"),
    "hcal_et": Channel("GeV", "HCAL transverse energy / 25"),
    "bpix1": Channel("hits", "Pixel layer 1"),
    "bpix2": Channel("hits", "Pixel layer 2"),
    "bpix3": Channel("hits", "Pixel layer 3"),
    "bpix4": Channel("hits", "Pixel layer 4"),
    "trk_d0_sig": Channel("σ", r"Track $d_0$ / uncertainty", signed=True),
    "trk_dz_sig": Channel("σ", r"Track $d_z$ / uncertainty", signed=True),
    "tib1": Channel("hits", "Inner barrel strip layer 1"),
    "tib2": Channel("hits", "Inner barrel strip layer 2"),
    "tob1": Channel("hits", "Outer barrel strip layer 1"),
    "tob2": Channel("hits", "Outer barrel strip layer 2"),
}
IMAGE_COLUMNS = {"pixel_index": "uint32", "pixel_value": "float32"}
PARTICLE_COLUMNS = {"particle_id": "int32"} | {
    f"particle_{name}": "float32" for name in ("pt", "eta", "phi", "x", "y", "z")
}
# what a model may see of a jet's candidates, and the truth about them, which it may not
CANDIDATE_COLUMNS = {"candidate_id": "int16", "candidate_charge": "int8"} | {
    f"candidate_{name}": "float32" for name in ("pt", "energy", "eta", "phi", "d0", "dz", "d0_error", "dz_error")
}
CANDIDATE_TRUTH = {"candidate_is_pileup": "bool"}
# what rows may hold besides: lists of one length each, by the name under which files declare them
EVENT_JET_COLUMNS = {
    "jets_pt": "float32",
    "jets_eta": "float32",
    "jets_phi": "float32",
    "jets_labels": "int64",
    "jets_mass_labels": "float32",
    "jets_mass": "float32",
    "jets_merged": "bool",
}
LISTS = {"candidates": CANDIDATE_COLUMNS | CANDIDATE_TRUTH, "jets": EVENT_JET_COLUMNS}
ROW_COLUMNS = {
    "labels": "int64",
    "mass_labels": "float32",
    "jet_mass": "float32",
    "pt": "float32",
    "eta": "float32",
    "ieta": "int32",
    "iphi": "int32",
    "merged": "bool",
    "parton": "int32",
    "num_pileup": "int32",
    "event_id": "string",
}
