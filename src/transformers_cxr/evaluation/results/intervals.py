"""Intervals of metrics by bootstrap over patients, and the significance of differences between two runs."""

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

    value (`float`): over all units; NaN where it is not defined.
    low, high (`float`): ends of the percentile interval; NaN where the value is.
    units (`int`), patients (`int`): what it is over.
    undefined (`int`): resamples without a value, such as those without a positive study; the interval leaves them out.
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
    The difference of two runs, second less first.

    value (`float`): the difference; NaN where one of the two has no value.
    low, high (`float`): ends of its percentile interval.
    p_value (`float`): two-sided, of the hypothesis that it does not matter which run an output comes from.
    """

    value: float
    low: float
    high: float
    p_value: float


def means(units: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each number over the units that have it; NaN counts as not having it."""
    names = dict.fromkeys(name for unit in units for name in unit)
    values = {name: np.array([unit.get(name, np.nan) for unit in units], dtype=float) for name in names}
    defined = {name: of[~np.isnan(of)] for name, of in values.items()}
    return {name: float(of.mean()) if len(of) else float("nan") for name, of in defined.items()}


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
    Values with percentile intervals (Efron and Tibshirani 1993, chapter 13). Patients are drawn with
    replacement, each with all its units, since the studies of a patient are not independent.

    Values of a set of different things (distances of distributions, nearest neighbours, the number of codes in use) are not
    those of a set that holds things twice. With `distinct` a resample is half of the patients, without replacement, around
    whose value the values of half-samples spread as those of new samples would (Politis and Romano 1994, with the variance
    of a finite population). Such values also depend on the size of a set, so the ends of the interval are those of
    the half-samples, moved by what lies between their median and the value of all units.

    Args:
        aggregate (`Callable[[list], dict[str, float]]`):
            Gives the values of any selection of units: [`means`], or the `aggregate` of a metric.
        units (`Sequence`):
            A unit a study: what `aggregate` takes.
        patients (`Sequence[str]`):
            The patient of each unit.
        num_resamples (`int`, *optional*, defaults to 1000):
            Number of resamples; 0 gives no intervals (NaN).
        level (`float`, *optional*, defaults to 0.95):
            Share of the resamples inside of the interval.
        seed (`int`, *optional*, defaults to 0):
            Seed of the resamples.
        distinct (`bool`, *optional*, defaults to `False`):
            Draws half of the patients without replacement.

    Raises:
        ValueError: there are no units, or not as many patients.
    """
    rows_of = _rows_of_patients(units, patients)
    values = aggregate(list(units))
    rng = np.random.default_rng(seed)
    resampled = {name: np.full(num_resamples, np.nan) for name in values}
    for i in range(num_resamples):
        for name, value in aggregate([units[row] for row in _drawn(rows_of, rng, distinct)]).items():
            resampled[name][i] = value
    return {
        name: Estimate(value, *_percentiles(r, value, level, distinct), len(units), len(rows_of), _undefined(r))
        for (name, value), r in zip(values.items(), resampled.values())
    }


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
    Compares two runs on the same studies: the interval is a paired bootstrap over patients, the p-value an approximate
    randomisation test (Noreen 1989) that exchanges the two runs' outputs of a patient at even odds.

    Args:
        aggregate (`Callable[[list], dict[str, float]]`):
            Gives the values of any selection of units.
        first, second (`Sequence`):
            The units of the two runs, in the same order of studies.
        patients (`Sequence[str]`):
            The patient of each study.
        num_resamples (`int`, *optional*, defaults to 1000):
            Number of resamples, and of exchanges. The smallest p-value is `1 / (num_resamples + 1)`.
        level (`float`, *optional*, defaults to 0.95):
            Share of the resamples inside of the interval.
        seed (`int`, *optional*, defaults to 0):
            Seed of both.
        distinct (`bool`, *optional*, defaults to `False`):
            As in [`bootstrap`].

    Raises:
        ValueError: there are no units, or the runs have different numbers of them.
    """
    if len(first) != len(second):
        raise ValueError(
            f"The two runs have {len(first)} and {len(second)} outputs: compare runs on the same studies."
        )
    rows_of = _rows_of_patients(first, patients)
    rng = np.random.default_rng(seed)

    def difference(one: list, other: list) -> dict[str, float]:
        before, after = aggregate(one), aggregate(other)
        return {name: after[name] - before[name] for name in before}

    values = difference(list(first), list(second))
    resampled, exchanged = ({name: np.full(num_resamples, np.nan) for name in values} for _ in range(2))
    for i in tqdm(range(num_resamples), desc="Resamples", leave=False):
        rows = _drawn(rows_of, rng, distinct)
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
        # Equal differences must count as equal whatever the order that they were summed in.
        extreme = np.abs(exchanged[name]) >= abs(value) - 1e-12
        defined = num_resamples - _undefined(exchanged[name])
        p_value = np.nan if np.isnan(value) else (extreme.sum() + 1) / (defined + 1)
        results[name] = Difference(value, *_percentiles(resampled[name], value, level, distinct), float(p_value))
    return results


def _rows_of_patients(units: Sequence, patients: Sequence[str]) -> list[np.ndarray]:
    if len(units) != len(patients):
        raise ValueError(f"Got {len(units)} units and {len(patients)} patients: expected one patient a unit.")
    if not len(units):
        raise ValueError("There is nothing to resample.")
    rows_of = defaultdict(list)
    for row, patient in enumerate(patients):
        rows_of[patient].append(row)
    return [np.array(rows) for rows in rows_of.values()]


def _drawn(rows_of: list[np.ndarray], rng: np.random.Generator, distinct: bool) -> np.ndarray:
    """The rows of a resample."""
    count = len(rows_of)
    patients = rng.permutation(count)[: (count + 1) // 2] if distinct else rng.integers(count, size=count)
    return np.concatenate([rows_of[patient] for patient in patients])


def _undefined(resampled: np.ndarray) -> int:
    return int(np.isnan(resampled).sum())


def _percentiles(resampled: np.ndarray, value: float, level: float, distinct: bool) -> tuple[float, float]:
    if np.isnan(value) or _undefined(resampled) == len(resampled):
        return float("nan"), float("nan")
    low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    if distinct:
        # Moved, a distance may fall below 0 and a share leave [0, 1], which they cannot.
        least = 0 if min(value, np.nanmin(resampled)) >= 0 else -np.inf
        most = 1 if max(value, np.nanmax(resampled)) <= 1 else np.inf
        low, high = (np.array([low, high]) + value - np.nanmedian(resampled)).clip(least, most)
    return float(low), float(high)
