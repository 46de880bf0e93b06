import numpy as np
import pytest

from flip import metrics


def test_topk_counts_a_label_among_the_k_largest():
    logits = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
    labels = np.array([0, 0, 0])
    assert metrics.topk_accuracy(logits, labels, 1) == pytest.approx(100 / 3)
    assert metrics.topk_accuracy(logits, labels, 2) == pytest.approx(200 / 3)
    assert metrics.topk_accuracy(logits, labels, 99) == 100.0


def test_top1_of_equal_logits_is_the_first_class_as_argmax_has_it():
    assert metrics.topk_accuracy(np.zeros((2, 3)), np.array([0, 1]), 1) == 50.0


def test_mean_per_class_weighs_classes_not_photos():
    labels = np.array([0, 0, 0, 1])
    predicted = np.array([0, 0, 0, 0])
    assert metrics.mean_per_class(predicted, labels) == 50.0


def test_wilson_interval_by_hand():
    # 8 of 10, z = 1.96: centre (0.8 + 0.19207) / 1.38415, half 0.2740 of the same scale
    low, high = metrics.wilson_interval(8, 10, z=1.96)
    assert low == pytest.approx(49.02, abs=0.01)
    assert high == pytest.approx(94.33, abs=0.01)
    assert metrics.wilson_interval(0, 5)[0] == 0.0
    assert metrics.wilson_interval(5, 5)[1] == 100.0


def test_mean_interval_is_students():
    mean, low, high = metrics.mean_interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.3027, standard error 1 / sqrt(3)
    assert (mean, low, high) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert np.isnan(metrics.mean_interval([1.0])[1])


def test_paired_interval_sees_only_where_two_methods_differ():
    a, b = np.array([1, 1, 1, 0, 1]), np.array([1, 0, 1, 0, 0])
    difference, low, high = metrics.paired_interval(a, b)
    assert difference == pytest.approx(40.0)
    assert low < 40 < high
    assert metrics.paired_interval(a, a) == (0.0, 0.0, 0.0)


def test_paired_interval_over_draws_by_hand():
    a, b = np.array([[1, 1, 1, 0], [1, 1, 0, 1]]), np.array([[0, 1, 0, 0], [0, 0, 0, 1]])
    # Differences [[1, 0, 1, 0], [1, 1, 0, 0]], mean 1/2; draws both 1/2, photos 1, 1/2, 1/2, 0.
    # MS_draw = 0; MS_photo = 2 · (1/4 + 1/4) / 3 = 1/3; MS_rest = 4 · 1/4 / 3 = 1/3, so that only MS_rest counts.
    # t(0.975, 3) = 3.1824, standard error sqrt(1/3 / 8) = 0.204124
    found = metrics.paired_interval_over_draws(a, b)
    assert found == pytest.approx((50.0, 50 - 64.961, 50 + 64.961), abs=1e-2)


def test_paired_interval_over_draws_knows_both_doubts():
    rng = np.random.default_rng(0)
    none = np.zeros((3, 400), int)
    by_photo = np.repeat(rng.random((1, 400)) < 0.5, 3, axis=0)
    # Draws that all say the same are one: no narrower than a single draw.
    mean, low, high = metrics.paired_interval_over_draws(by_photo, none)
    one = metrics.paired_interval(by_photo[0], none[0])
    assert (mean, low, high) == pytest.approx(one, abs=0.05)
    # Draws that differ from each other for all photos alike: Student's interval of three draws.
    by_draw = np.repeat([[1], [0], [0]], 400, axis=1)
    _, low, high = metrics.paired_interval_over_draws(by_draw, none)
    assert (low, high) == pytest.approx(metrics.mean_interval([100.0, 0.0, 0.0])[1:])
    assert metrics.paired_interval_over_draws(none, none) == (0.0, 0.0, 0.0)
    assert metrics.paired_interval_over_draws(by_photo[:1], none[:1]) == one


def test_paired_interval_over_draws_holds_what_it_says():
    """Differences with a part of the draw, one of the photo, and chance: 95 of 100 intervals hold the truth."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        table = 0.05 * rng.normal(size=(3, 1)) + 0.3 * rng.normal(size=(1, 50)) + 0.5 * rng.normal(size=(3, 50))
        _, low, high = metrics.paired_interval_over_draws(table, np.zeros_like(table))
        held += low <= 0 <= high
    assert held / 400 >= 0.92


def test_calibration_error_of_a_sure_and_wrong_model_is_its_confidence():
    sure = np.array([[0.9, 0.1], [0.9, 0.1]])
    assert metrics.expected_calibration_error(sure, np.array([1, 1])) == pytest.approx(0.9)
    assert metrics.expected_calibration_error(sure, np.array([0, 0])) == pytest.approx(0.1)


def test_coverage_curve_answers_the_surest_first():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4]])
    curve = metrics.coverage_curve(probabilities, np.array([0, 1]), (1.0, 0.5))
    assert curve == [(1.0, 50.0, pytest.approx(0.6)), (0.5, 100.0, pytest.approx(0.9))]


def test_confused_pairs_come_most_frequent_first():
    truth = np.array([0, 0, 0, 1, 2])
    predicted = np.array([1, 1, 0, 2, 2])
    assert metrics.confused_pairs(predicted, truth) == [(0, 1, 2), (1, 2, 1)]


def test_confusion_matrix_by_hand():
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2])
    counts = [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert metrics.confusion_matrix(predicted, labels, 4).tolist() == counts
