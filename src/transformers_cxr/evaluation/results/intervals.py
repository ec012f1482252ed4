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
    A value with its 95 % interval.

    value (`float`): over all units; NaN if it is not defined.
    low, high (`float`): ends of the percentile interval, without resamples whose value is not defined; NaN if there is
        no interval.
    units (`int`), patients (`int`): number of units and patients.
    """

    value: float
    low: float
    high: float
    units: int
    patients: int


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
        seed (`int`, *optional*, defaults to 0):
            Seed of the resamples.
        distinct (`bool`, *optional*, defaults to `False`):
            Whether a resample is half of the patients without replacement.
    """
    rows_of, rng = defaultdict(list), np.random.default_rng(seed)
    for row, patient in enumerate(patients):
        rows_of[patient].append(row)
    groups, count = list(rows_of.values()), len(rows_of)
    values, resampled = aggregate(list(units)), defaultdict(list)
    for _ in range(num_resamples):
        chosen = rng.permutation(count)[: (count + 1) // 2] if distinct else rng.integers(count, size=count)
        for name, value in aggregate([units[row] for patient in chosen for row in groups[patient]]).items():
            resampled[name].append(value)
    return {
        name: Estimate(value, *_interval(value, resampled[name], distinct), len(units), count)
        for name, value in values.items()
    }


def paired_difference(
    aggregate: Aggregate,
    first: Sequence,
    second: Sequence,
    patients: Sequence[str],
    num_resamples: int = 1000,
    seed: int = 0,
    distinct: bool = False,
) -> dict[str, tuple[Estimate, float]]:
    """
    Compare two runs on the same examples. The interval is a paired bootstrap over patients, the p-value an approximate
    randomization test (Noreen 1989) that exchanges the outputs of the two runs for a patient with probability one
    half.

    Args:
        first, second (`Sequence`), patients (`Sequence[str]`):
            The units of the two runs, in the same order of examples, and their patients.
        num_resamples (`int`, *optional*, defaults to 1000):
            Number of resamples, and of exchanges. The smallest p-value is `1 / (num_resamples + 1)`.
        aggregate, seed, distinct:
            As in [`bootstrap`].

    Returns:
        `dict[str, tuple[Estimate, float]]`: the difference, second minus first, and its two-sided p-value; NaN if a
        value is not defined.
    """

    def difference(pairs: list[tuple]) -> dict[str, float]:
        before, after = (aggregate(list(units)) for units in zip(*pairs))
        return {name: after[name] - before[name] for name in before}

    pairs = list(zip(first, second))
    estimates = bootstrap(difference, pairs, patients, num_resamples, seed, distinct)
    exchanged, rng = defaultdict(list), np.random.default_rng(seed)
    for _ in tqdm(range(num_resamples), desc="Exchanges", leave=False):
        swapped = {patient: rng.random() < 0.5 for patient in dict.fromkeys(patients)}
        for name, value in difference([p[::-1] if swapped[who] else p for p, who in zip(pairs, patients)]).items():
            exchanged[name].append(value)
    results = {}
    for name, estimate in estimates.items():
        defined = np.array(exchanged[name])[~np.isnan(exchanged[name])]
        # Equal differences must count as equal whatever the order of summation.
        extreme = (np.abs(defined) >= abs(estimate.value) - 1e-12).sum()
        p_value = float("nan") if np.isnan(estimate.value) else (extreme + 1) / (len(defined) + 1)
        results[name] = (estimate, float(p_value))
    return results


def _interval(value: float, resampled: list[float], distinct: bool) -> tuple[float, float]:
    if np.isnan(value) or np.isnan(resampled).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    if distinct:
        # The shift must not make a distance negative or move a share out of [0, 1].
        least = 0 if min(value, np.nanmin(resampled)) >= 0 else -np.inf
        most = 1 if max(value, np.nanmax(resampled)) <= 1 else np.inf
        low, high = (np.array([low, high]) + value - np.nanmedian(resampled)).clip(least, most)
    return float(low), float(high)
