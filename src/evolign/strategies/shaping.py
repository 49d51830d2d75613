"""Shaping: pure functions that map fitness_N to the weights of the perturbations, weight_N.

The weights sum to zero, so that adding a constant to the fitness changes nothing.
"""

import numpy as np


def mean_subtracted(fitness_N: np.ndarray) -> np.ndarray:
    """F_i - mean F: the baseline of the ESO paper's equations 5 to 7."""
    result: np.ndarray = fitness_N - fitness_N.mean()
    return result


def z_score(fitness_N: np.ndarray) -> np.ndarray:
    """(F_i - mean F) / std F, and zeros where all fitness is equal."""
    if np.ptp(fitness_N) == 0:
        return np.zeros_like(fitness_N)
    centred_N = mean_subtracted(fitness_N)
    scaled_N = centred_N / np.abs(centred_N).max()  # so that squares neither under- nor overflow
    result: np.ndarray = scaled_N / scaled_N.std()
    return result


def centred_rank(fitness_N: np.ndarray) -> np.ndarray:
    """-1/2 for the worst to +1/2 for the best in equal steps (Salimans et al., arXiv 1703.03864)."""
    return by_rank(fitness_N, np.linspace(0.5, -0.5, len(fitness_N)))


def by_rank(fitness_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Give the best candidate `weight_N[0]`, the next one `weight_N[1]`, and so on.

    Candidates of equal fitness get the average of their weights.
    """
    _, group_N, size_G = np.unique(-fitness_N, return_inverse=True, return_counts=True)
    weight_G = np.bincount(np.sort(group_N), weights=weight_N) / size_G
    return weight_G[group_N]


SHAPINGS = {"mean": mean_subtracted, "z_score": z_score, "centred_rank": centred_rank}
