"""The effects of the detector that can be switched off by name, to measure what each of them does."""

from collections.abc import Iterable

__all__ = ["EFFECTS", "effects_without"]

# what each one is; its constants and their sources are where it is simulated
EFFECTS: dict[str, str] = {
    "conversions": "photons become pairs of electrons in the material of the tracker",
    "bremsstrahlung": "electrons radiate photons there",
    "nuclear": "hadrons interact there; secondaries continue from the interaction point",
    "showers": "each shower has its own depth, width and clusters, at the place the bent particle reaches",
    "out_of_time": "energy left in the calorimeters by collisions in other bunch crossings",
    "channels": "dead and noisy calorimeter channels, the same in every event",
    "calibration": "imperfect calibration of crystals and towers",
    "decays": "displaced tracks, found less often and measured less well",
    "tails": "non-Gaussian tails of the impact parameters",
    "dense_cores": "tracks lost in dense jet cores",
    "fakes": "fake and duplicate tracks",
    "clusters": "merged pixel clusters",
    "modules": "dead pixel modules, the same in every event",
    "lost_hits": "pixel hits lost in full readout buffers, in proportion to pile-up",
    "vertex": "a primary vertex that is smeared, merged with another, or wrong",
}


def effects_without(names: Iterable[str]) -> frozenset[str]:
    """All effects but those in `names`; `all` leaves none.

    Raises:
        ValueError: for a name that is not in [`EFFECTS`], or a text in place of several.
    """
    if isinstance(names, str):
        raise ValueError(f"`without` is a list of effects, got the text {names!r}: write [{names!r}].")
    names = set(names)
    if unknown := names - {*EFFECTS, "all"}:
        raise ValueError(
            f"Unknown effect {', '.join(sorted(map(str, unknown)))}; known ones: all, {', '.join(EFFECTS)}."
        )
    return frozenset() if "all" in names else frozenset(EFFECTS) - names
