import numpy as np
import pytest
from scipy import stats

from transformers_cxr.evaluation.results.intervals import bootstrap, means, paired_difference


def one_each(units):
    return [f"patient {i}" for i in range(len(units))]


def scores_of(values):
    return [{"score": value} for value in values]


@pytest.mark.parametrize("distinct", [False, True])
def test_interval_of_a_mean_is_that_of_scipy(distinct):
    values = np.random.default_rng(0).exponential(size=80)
    units = scores_of(values)
    estimate = bootstrap(means, units, one_each(units), num_resamples=2000, distinct=distinct)["score"]
    if distinct:
        # The variance of the mean of half-samples is that of the mean itself: its normal interval.
        error = stats.norm.ppf(0.975) * values.std(ddof=1) / np.sqrt(80)
        low, high = values.mean() - error, values.mean() + error
    else:
        low, high = stats.bootstrap(
            (values,), np.mean, n_resamples=2000, method="percentile", rng=1
        ).confidence_interval
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.02)
    assert (estimate.units, estimate.patients) == (80, 80)
    again, other = (bootstrap(means, units, one_each(units), 50, seed=s, distinct=distinct) for s in (0, 4))
    assert again == bootstrap(means, units, one_each(units), 50, distinct=distinct) != other


def test_studies_of_a_patient_are_resampled_together():
    units = scores_of([float(patient) for patient in (0, 1) for _ in range(50)])
    estimate = bootstrap(means, units, [str(int(unit["score"])) for unit in units], num_resamples=400)["score"]
    # A resample of two patients has one of them, the other or both.
    assert (estimate.low, estimate.high, estimate.patients) == (0, 1, 2)
    assert bootstrap(means, units, one_each(units), num_resamples=400)["score"].high < 0.65


def test_the_interval_of_a_set_without_duplicates_contains_its_value():
    units = list(np.random.default_rng(0).integers(50, size=80))

    def usage(units):
        return {"usage": len(set(units)) / 50, "duplicates": float(len(units) - len(set(units)))}

    found = bootstrap(usage, units, one_each(units), num_resamples=400)["usage"]
    assert found.high < found.value
    found = bootstrap(usage, units, one_each(units), num_resamples=400, distinct=True)
    assert found["usage"].low < found["usage"].value < found["usage"].high <= 1
    assert found["duplicates"].low >= 0


def test_resamples_without_a_value_are_left_out():
    units = scores_of([1.0, float("nan"), float("nan")])
    estimate = bootstrap(means, units, one_each(units), num_resamples=100)["score"]
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)
    estimate = bootstrap(means, units[1:], one_each(units[1:]), num_resamples=50)["score"]
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_equal_runs_do_not_differ_and_other_runs_do():
    rng = np.random.default_rng(0)
    first = rng.normal(size=60)
    runs = [scores_of(first), scores_of(first), scores_of(first + 0.5 + 0.1 * rng.normal(size=60))]
    same, p_value = paired_difference(means, runs[0], runs[1], one_each(first), 200)["score"]
    assert (same.value, same.low, same.high, p_value) == (0, 0, 0, 1)
    difference, p_value = paired_difference(means, runs[0], runs[2], one_each(first), 200)["score"]
    assert difference.value == pytest.approx(0.5, abs=0.05)
    assert difference.low > 0.4 and p_value == 1 / 201


def test_p_value_is_that_of_the_exact_permutation_test():
    rng = np.random.default_rng(1)
    first = rng.normal(size=12)
    second = first + 0.4 + rng.normal(size=12)
    exact = stats.permutation_test(
        (first, second), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    runs = (scores_of(first), scores_of(second))
    _, p_value = paired_difference(means, *runs, one_each(first), num_resamples=4000)["score"]
    assert p_value == pytest.approx(exact, abs=0.02)
