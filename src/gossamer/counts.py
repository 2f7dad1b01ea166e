"""What adds up over items when models are measured, and the metrics that follow from it. C classes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Counts:
    """What adds up over items: summed loss; per class the items that were right, that are of it, that were said to be;
    and scores and labels where there are two classes."""

    loss: float
    hits_C: Array
    true_C: Array
    said_C: Array
    scores: Array
    labels: Array
    aimed: int = 0
    """Items that an attack wants to be taken for something."""
    hit: int = 0
    """Those of them that are."""
    unlabelled: int = 0
    """Items of which only the loss is known: the model learns something else than labels."""

    @property
    def success(self) -> float | None:
        """The share of what an attack aims at that it gets."""
        return self.hit / self.aimed if self.aimed else None

    @classmethod
    def none(cls, classes: int) -> Counts:
        """Of no items."""
        zero_C = np.zeros(classes, np.int64)
        return cls(0.0, zero_C, zero_C, zero_C, np.empty(0), np.empty(0, np.int64))

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.loss + other.loss,
            self.hits_C + other.hits_C,
            self.true_C + other.true_C,
            self.said_C + other.said_C,
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.labels, other.labels]),
            self.aimed + other.aimed,
            self.hit + other.hit,
            self.unlabelled + other.unlabelled,
        )

    @classmethod
    def of_loss(cls, loss: float, items: int, classes: int) -> Counts:
        """Of items that have nothing but a summed loss."""
        return dataclasses.replace(cls.none(classes), loss=loss, unlabelled=items)

    def metrics(self) -> dict[str, float | None]:
        """Mean loss, accuracy, balanced accuracy (mean recall over the classes present), macro F1, AUC (two classes).

        None where a metric is not defined: no items, or for the AUC one class only.
        """
        total = int(self.true_C.sum())
        if total == 0:
            nothing = dict.fromkeys(("loss", "accuracy", "balanced_accuracy", "f1", "auc"))
            return {**nothing, "loss": self.loss / self.unlabelled} if self.unlabelled else nothing
        present, named = self.true_C > 0, (self.true_C + self.said_C) > 0
        return {
            "loss": self.loss / total,
            "accuracy": float(self.hits_C.sum() / total),
            "balanced_accuracy": float((self.hits_C[present] / self.true_C[present]).mean()),
            "f1": float((2 * self.hits_C[named] / (self.true_C + self.said_C)[named]).mean()),
            "auc": _auc(self.scores, self.labels),
        }


def _auc(scores: Array, labels: Array) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half."""
    positive = int(labels.sum())
    negative = len(labels) - positive
    if positive == 0 or negative == 0:
        return None
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    return float((ranks[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))
