"""AUC, F1 and thresholds of binary tasks, by scikit-learn."""

from __future__ import annotations

import numpy as np

from accord.errors import DependencyError

try:
    from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score
except ImportError as error:
    raise DependencyError(
        "the metrics of binary tasks need scikit-learn: `pip install 'accord[experiments]'`"
    ) from error


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The area under the ROC curve of scores (N,) for labels (N,) of 0 and 1, of which both occur."""
    return float(roc_auc_score(labels, scores))


def f1(labels: np.ndarray, called: np.ndarray) -> list[float]:
    """F1 of each task's calls (T, N), true for positive, for labels (T, N); 0 where no call is right."""
    if len(labels) == 1:  # scikit-learn takes one column for a task with two classes
        return [float(f1_score(labels[0], called[0], zero_division=0))]
    return f1_score(labels.T, called.T, average=None, zero_division=0).tolist()


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The score from which on calling an example positive has the best F1; the lowest of equals."""
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    # the last point of the curve, precision 1 at recall 0, belongs to no threshold
    values = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], np.finfo(float).tiny)
    return float(thresholds[values.argmax()])
