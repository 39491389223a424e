"""Deterministic splits. Each function returns sorted int64 indices."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "validation", "test")


def stratified_split(
    labels: np.ndarray, *, fractions: Sequence[float], seed: int
) -> list[np.ndarray]:
    """Splits indices so that every class has nearly the given fractions.

    Args:
        labels: int array `[n]`.
        fractions: the share of each part; they sum to 1.
        seed: of the permutation within the classes.

    Returns:
        One sorted index array per fraction; together they hold 0..n-1 once.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.round(np.cumsum(fractions)[:-1] * len(members)).astype(int)
        for part, chosen in zip(parts, np.split(members, cuts), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def holdout_split(
    count: int, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out the last `fraction` of a fixed permutation of 0..count-1.

    Returns:
        `(kept, held_out)`, both sorted.
    """
    order = np.random.default_rng(seed).permutation(count)
    cut = count - round(count * fraction)
    return np.sort(order[:cut]), np.sort(order[cut:])


def hash_split(name: str) -> str:
    """The split a file belongs to by its relative name: 80 / 10 / 10 percent.

    A file keeps its split when others are added or removed.
    """
    digest = hashlib.sha256(name.encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < 0.8:
        return "train"
    return "validation" if position < 0.9 else "test"


def balanced_subset(labels: np.ndarray, limit: int, *, seed: int = 0) -> np.ndarray:
    """At most `limit` indices, spread over the classes as evenly as they allow.

    Args:
        labels: int array `[n]`.
        limit: how many indices to return at most.
        seed: of the choice within the classes.
    """
    if limit >= len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # the k-th of its class gets turn k
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:limit])
