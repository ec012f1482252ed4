"""Confidence intervals of metrics by bootstrap over patients, and tests of differences between two runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

Aggregate = Callable[[list], dict[str, float]]


@dataclass(frozen=True)
class Estimate:
    """
    A value with its interval.

    value (`float`): over all units; NaN if it is not defined.
    low, high (`float`): ends of the percentile interval; NaN if the value is not defined.
    units (`int`), patients (`int`): number of units and patients.
    undefined (`int`): resamples without a value, such as those without a positive label; the interval leaves them out.
    """

    value: float
    low: float
    high: float
    units: int
    patients: int
    undefined: int = 0


@dataclass(frozen=True)
class Difference:
    """
    The difference between two runs, second minus first.

    value (`float`): the difference; NaN if one of the two values is not defined.
    low, high (`float`): ends of its percentile interval.
    p_value (`float`): two-sided, under the null hypothesis that the outputs of the two runs are exchangeable.
    """

    value: float
    low: float
    high: float
    p_value: float


def means(units: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score over the units that have it; NaN counts as missing."""
    names = dict.fromkeys(name for unit in units for name in unit)
    values = {name: np.array([unit.get(name, np.nan) for unit in units], dtype=float) for name in names}
    return {name: float(np.nanmean(own)) if not np.isnan(own).all() else float("nan") for name, own in values.items()}


def bootstrap(
    aggregate: Aggregate,
    units: Sequence,
    patients: Sequence[str],
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    distinct: bool = False,
) -> dict[str, Estimate]:
    """
    Compute values with percentile intervals (Efron and Tibshirani 1993, chapter 13). Patients are resampled with
    replacement, each with all its units, because the studies of a patient are not independent.

    Some values describe a set without duplicates: distances of distributions, nearest neighbors, the number of codes
    in use. With `distinct` a resample is therefore half of the patients, without replacement; the values of
    half-samples spread as those of new samples would (Politis and Romano 1994, with the variance of a finite
    population). As such values also depend on the size of the set, the interval is shifted by the difference between
    the value of all units and the median of the half-samples.

    Args:
        aggregate (`Callable[[list], dict[str, float]]`):
            Computes the values of a selection of units: [`means`], or the `aggregate` of a metric.
        units (`Sequence`), patients (`Sequence[str]`):
            Units for `aggregate`, and the patient of each.
        num_resamples (`int`, *optional*, defaults to 1000):
            Number of resamples; 0 gives no intervals (NaN).
        level (`float`, *optional*, defaults to 0.95):
            Confidence level.
        seed (`int`, *optional*, defaults to 0):
            Seed of the resamples.
        distinct (`bool`, *optional*, defaults to `False`):
            Whether a resample is half of the patients without replacement.
    """
    rows_of, rng = _rows_of_patients(patients), np.random.default_rng(seed)
    values = aggregate(list(units))
    resampled = {name: np.full(num_resamples, np.nan) for name in values}
    for i in range(num_resamples):
        for name, value in aggregate([units[row] for row in _resample(rows_of, rng, distinct)]).items():
            resampled[name][i] = value
    estimates = {}
    for name, value in values.items():
        interval = _percentiles(resampled[name], value, level, distinct)
        undefined = int(np.isnan(resampled[name]).sum())
        estimates[name] = Estimate(value, *interval, len(units), len(rows_of), undefined)
    return estimates


def paired_difference(
    aggregate: Aggregate,
    first: Sequence,
    second: Sequence,
    patients: Sequence[str],
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    distinct: bool = False,
) -> dict[str, Difference]:
    """
    Compare two runs on the same examples. The interval is a paired bootstrap over patients, the p-value an approximate
    randomization test (Noreen 1989) that exchanges the outputs of the two runs for a patient with probability one
    half.

    Args:
        first, second (`Sequence`), patients (`Sequence[str]`):
            The units of the two runs, in the same order of examples, and their patients.
        num_resamples (`int`, *optional*, defaults to 1000):
            Number of resamples, and of exchanges. The smallest p-value is `1 / (num_resamples + 1)`.
        aggregate, level, seed, distinct:
            As in [`bootstrap`].
    """
    rows_of, rng = _rows_of_patients(patients), np.random.default_rng(seed)

    def difference(one: list, other: list) -> dict[str, float]:
        before, after = aggregate(one), aggregate(other)
        return {name: after[name] - before[name] for name in before}

    values = difference(list(first), list(second))
    resampled, exchanged = ({name: np.full(num_resamples, np.nan) for name in values} for _ in range(2))
    for i in tqdm(range(num_resamples), desc="Resamples", leave=False):
        rows = _resample(rows_of, rng, distinct)
        for name, value in difference([first[r] for r in rows], [second[r] for r in rows]).items():
            resampled[name][i] = value
        one, other = list(first), list(second)
        for patient in np.flatnonzero(rng.random(len(rows_of)) < 0.5):
            for row in rows_of[patient]:
                one[row], other[row] = other[row], one[row]
        for name, value in difference(one, other).items():
            exchanged[name][i] = value
    results = {}
    for name, value in values.items():
        # Equal differences must count as equal whatever the order of summation.
        extreme = (np.abs(exchanged[name]) >= abs(value) - 1e-12).sum()
        defined = (~np.isnan(exchanged[name])).sum()
        p_value = np.nan if np.isnan(value) else (extreme + 1) / (defined + 1)
        results[name] = Difference(value, *_percentiles(resampled[name], value, level, distinct), float(p_value))
    return results


def _rows_of_patients(patients: Sequence[str]) -> list[np.ndarray]:
    rows_of = defaultdict(list)
    for row, patient in enumerate(patients):
        rows_of[patient].append(row)
    return [np.array(rows) for rows in rows_of.values()]


def _resample(rows_of: list[np.ndarray], rng: np.random.Generator, distinct: bool) -> np.ndarray:
    """Return the rows of a resample."""
    count = len(rows_of)
    patients = rng.permutation(count)[: (count + 1) // 2] if distinct else rng.integers(count, size=count)
    return np.concatenate([rows_of[patient] for patient in patients])


def _percentiles(resampled: np.ndarray, value: float, level: float, distinct: bool) -> tuple[float, float]:
    if np.isnan(value) or np.isnan(resampled).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    if distinct:
        # The shift must not make a distance negative or move a share out of [0, 1].
        least = 0 if min(value, np.nanmin(resampled)) >= 0 else -np.inf
        most = 1 if max(value, np.nanmax(resampled)) <= 1 else np.inf
        low, high = (np.array([low, high]) + value - np.nanmedian(resampled)).clip(least, most)
    return float(low), float(high)
