"""Fits polynomials to what dry runs measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.models.profile import Polynomial, evaluate

# A coefficient whose part in every sample is below this share is the rounding of the fit.
_NOISE = 1e-9
_DIGITS = 10


def fit(
    monomials: Sequence[str],
    samples: Sequence[Mapping[str, float]],
    values: Sequence[float],
    against: Sequence[float] | None = None,
) -> Polynomial:
    """Least squares of relative errors, so that a small size counts as much as a large one.

    Args:
        monomials: as in core.models.profile.Polynomial; those that the samples cannot tell apart share their part.
        samples: the variables of each sample.
        values: what was measured there.
        against: what errors are relative to, where that is not the value itself (a value that is added to it).
    """
    if not any(values):
        return {}
    weights = np.array([1.0 / abs(value) for value in against or values])
    terms = np.array([[evaluate({name: 1.0}, sample) for name in monomials] for sample in samples])
    weighted = terms * weights[:, None]
    scale = np.abs(weighted).max(axis=0)
    scale[scale == 0] = 1.0
    solution, *_ = np.linalg.lstsq(weighted / scale, np.array(values, dtype=float) * weights, rcond=1e-12)
    coefficients = solution / scale
    parts = np.abs(terms * coefficients) * weights[:, None]
    return {
        name: _rounded(float(coefficient))
        for name, coefficient, part in zip(monomials, coefficients, parts.max(axis=0), strict=True)
        if part > _NOISE
    }


def worst(polynomial: Polynomial, samples: Sequence[Mapping[str, float]], values: Sequence[float]) -> float:
    """The largest relative error of a polynomial over samples (0.03 is 3 %)."""
    pairs = zip(samples, values, strict=True)
    return max((abs(evaluate(polynomial, sample) - value) / value for sample, value in pairs if value), default=0.0)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
