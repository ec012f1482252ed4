import numpy as np
import pytest
from scipy import stats

from transformers_cxr.evaluation.results.intervals import bootstrap, means, paired_difference


def one_each(units):
    return [f"patient {i}" for i in range(len(units))]


def test_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=80)
    units = [{"score": value} for value in values]
    estimate = bootstrap(means, units, one_each(units), num_resamples=2000)["score"]
    expected = stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=1).confidence_interval
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert (estimate.units, estimate.patients, estimate.undefined) == (80, 80, 0)


def test_studies_of_a_patient_are_drawn_together():
    units = [{"score": float(patient)} for patient in (0, 1) for _ in range(50)]
    patients = [str(int(unit["score"])) for unit in units]
    estimate = bootstrap(means, units, patients, num_resamples=400)["score"]
    # Of two patients a resample holds one, the other or both, never anything between.
    assert (estimate.low, estimate.high, estimate.patients) == (0, 1, 2)
    assert bootstrap(means, units, one_each(units), num_resamples=400)["score"].high < 0.65


def test_half_samples_spread_as_new_samples_do():
    values = np.random.default_rng(0).exponential(size=80)
    units = [{"score": value} for value in values]
    estimate = bootstrap(means, units, one_each(units), num_resamples=2000, distinct=True)["score"]
    # For a mean the variance of half-samples is that of the mean itself: its normal interval.
    error = stats.norm.ppf(0.975) * values.std(ddof=1) / np.sqrt(80)
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.02)


def test_an_interval_of_a_set_of_different_things_holds_its_value():
    units = list(np.random.default_rng(0).integers(50, size=80))

    def used(units):
        return {"usage": len(set(units)) / 50, "twice": float(len(units) - len(set(units)))}

    found = bootstrap(used, units, one_each(units), num_resamples=400)["usage"]
    assert found.high < found.value
    found = bootstrap(used, units, one_each(units), num_resamples=400, distinct=True)
    assert found["usage"].low < found["usage"].value < found["usage"].high <= 1
    assert found["twice"].low >= 0
    # Nothing is drawn twice.
    same = bootstrap(used, list(range(9)), one_each(range(9)), num_resamples=50, distinct=True)["twice"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_seed_gives_the_same_interval_and_another_one_does_not():
    units = [{"score": value} for value in np.random.default_rng(0).normal(size=30)]
    first, again, other = (bootstrap(means, units, one_each(units), 100, seed=seed) for seed in (3, 3, 4))
    assert first == again and first != other


def test_what_is_not_defined_has_no_value_and_no_interval():
    units = [{"score": float("nan")}] * 3
    estimate = bootstrap(means, units, one_each(units), num_resamples=50)["score"]
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all() and estimate.undefined == 50


def test_resamples_without_a_value_are_counted_and_left_out():
    units = [{"score": 1.0}, {"score": float("nan")}, {"score": float("nan")}]
    estimate = bootstrap(means, units, one_each(units), num_resamples=1000)["score"]
    # A resample misses the one study that has a value with probability (2/3)^3.
    assert estimate.undefined / 1000 == pytest.approx((2 / 3) ** 3, abs=0.05)
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)


def test_equal_runs_do_not_differ_and_other_runs_do():
    rng = np.random.default_rng(0)
    first = [{"score": value} for value in rng.normal(size=60)]
    same = paired_difference(means, first, list(first), one_each(first), 200)["score"]
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    better = [{"score": unit["score"] + 0.5 + 0.1 * rng.normal()} for unit in first]
    difference = paired_difference(means, first, better, one_each(first), 200)["score"]
    assert difference.value == pytest.approx(0.5, abs=0.05)
    assert difference.low > 0.4 and difference.p_value == 1 / 201


def test_p_value_of_paired_runs_is_that_of_the_exact_permutation_test():
    rng = np.random.default_rng(1)
    first = rng.normal(size=12)
    second = first + 0.4 + rng.normal(size=12)
    exact = stats.permutation_test(
        (first, second), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    runs = [[{"score": value} for value in values] for values in (first, second)]
    found = paired_difference(means, *runs, one_each(first), num_resamples=4000)["score"]
    assert found.p_value == pytest.approx(exact, abs=0.02)


def test_runs_and_patients_of_other_lengths_are_refused():
    units = [{"score": 1.0}] * 3
    with pytest.raises(ValueError, match="3 units and 2 patients"):
        bootstrap(means, units, ["a", "b"])
    with pytest.raises(ValueError, match="3 and 2 outputs"):
        paired_difference(means, units, units[:2], ["a", "b", "c"])
    with pytest.raises(ValueError, match="nothing to resample"):
        bootstrap(means, [], [])
