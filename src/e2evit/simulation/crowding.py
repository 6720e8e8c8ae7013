"""How close tracks, or hits, come to each other."""

import numpy as np

__all__ = ["close_pairs", "crowding"]

MERGING = 0.008  # distance in eta and phi at which pixel clusters merge: 0.35 mm at 4.4 cm, see clusters.py
CROWD = 0.05  # distance up to which neighbours are counted


def close_pairs(group, place, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs within groups whose places on a line are less than `reach` apart, as two arrays of indices.

    The first index of a pair is the one of the smaller place.
    """
    order = np.lexsort((place, group))
    group, place = group[order], place[order]
    first, pairs = np.arange(len(order)), [np.zeros((2, 0), int)]
    for step in range(1, len(order)):
        first = first[first < len(order) - step]
        second = first + step
        near = (group[first] == group[second]) & (place[second] - place[first] < reach)
        first = first[near]  # who has no neighbour here has none further on
        if not len(first):
            break
        pairs.append(np.stack([first, first + step]))
    first, second = np.concatenate(pairs, axis=1)
    return order[first], order[second]


def crowding(event, eta, phi) -> tuple[np.ndarray, np.ndarray]:
    """Overlap of each track with the others of its event, and the number of others within 0.05 in eta and phi.

    The overlap is the sum of exp(-(distance / 0.008)²).
    """
    # tracks just above -pi once more, above pi
    again = np.flatnonzero(phi < CROWD - np.pi)
    index = np.concatenate([np.arange(len(event)), again])
    around = np.concatenate([phi, phi[again] + 2 * np.pi])
    first, second = close_pairs(event[index], around, CROWD)
    distance = np.hypot(around[second] - around[first], eta[index[second]] - eta[index[first]])
    near = distance < CROWD
    first, second, distance = index[first[near]], index[second[near]], distance[near]
    both, overlap = np.concatenate([first, second]), np.exp(-((distance / MERGING) ** 2))
    number = len(event)
    return np.bincount(both, np.tile(overlap, 2), minlength=number), np.bincount(both, minlength=number)
