"""Closed-form maps in scikit-learn pipelines, and a skorch classifier whose loss has an alignment term.

A map of `mmda.linear` is fitted once from rows; a transformer of ten lines uses it in a pipeline. The target's rows are
a parameter of the transformer; its labels are not used.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmda.linear import CORALMap, SubspaceAlignment
from mmda.losses import MMDLoss

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
except ImportError:
    BaseEstimator = TransformerMixin = object
    make_pipeline = LogisticRegression = None
try:
    from skorch import NeuralNetClassifier
except ImportError:
    NeuralNetClassifier = object


class ToTarget(TransformerMixin, BaseEstimator):
    """Map the source's rows to the mean and covariance of `target`; fitted and applied only to the source."""

    def __init__(self, target: np.ndarray, ridge: float = 1e-3) -> None:
        self.target, self.ridge = target, ridge

    def fit(self, x: np.ndarray, y: Any = None) -> ToTarget:
        """Fit the map from moments."""
        self.map_ = CORALMap(ridge=self.ridge).fit(torch.as_tensor(x), torch.as_tensor(self.target))
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Map source rows."""
        return self.map_(torch.as_tensor(x)).numpy()


class AlignedNet(NeuralNetClassifier):
    """Cross-entropy as in skorch, plus `weight` times the MMD between the features of the batch and the target."""

    def __init__(self, *inputs: Any, target: np.ndarray | None = None, weight: float = 1.0, **settings: Any) -> None:
        self.target, self.weight = target, weight
        super().__init__(*inputs, **settings)

    def get_loss(self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False) -> Tensor:
        """Called by skorch for the loss."""
        loss: Tensor = super().get_loss(y_pred, y_true, X=X, training=training)
        if training and self.weight:
            features = self.module_[0]
            x, z = (torch.as_tensor(each, dtype=torch.float32) for each in (X, self.target))
            loss = loss + self.weight * MMDLoss(estimator="unbiased")(features(x), features(z))
        return loss


def problem(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two classes; the target is scaled and shifted."""
    generator = np.random.default_rng(seed)
    labels, hidden = generator.integers(2, size=(2, n))
    source = generator.normal(size=(n, 10)) + 1.5 * labels[:, None]
    target = 1.3 * (generator.normal(size=(n, 10)) + 1.5 * hidden[:, None]) + np.linspace(2, -1, 10)
    return source.astype(np.float32), labels, target.astype(np.float32), hidden


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="no effect: the example is fast")
    parser.parse_args()
    if make_pipeline is None:
        print("skipped: scikit-learn is not installed (pip install scikit-learn)")
        raise SystemExit(0)
    source, labels, target, hidden = problem(600, seed=0)
    alone = LogisticRegression().fit(source, labels)
    mapped = make_pipeline(ToTarget(target), LogisticRegression()).fit(source, labels)
    print(f"source only        {alone.score(target, hidden):.0%} right on the target")
    print(f"CORAL map          {mapped[-1].score(target, hidden):.0%}")  # the target's rows are not mapped
    aligned = SubspaceAlignment(5).fit(torch.as_tensor(source), torch.as_tensor(target))
    on_source = aligned.map_source(torch.as_tensor(source)).numpy()
    right = LogisticRegression().fit(on_source, labels).score(aligned.map_target(torch.as_tensor(target)), hidden)
    print(f"subspace alignment {right:.0%}")
    if NeuralNetClassifier is object:
        print("skipped: skorch is not installed (pip install skorch)")
        raise SystemExit(0)
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        net = AlignedNet(
            nn.Sequential(nn.Sequential(nn.Linear(10, 32), nn.ReLU()), nn.Linear(32, 2)),
            criterion=nn.CrossEntropyLoss,
            target=target,
            weight=weight,
            optimizer=torch.optim.Adam,
            lr=0.01,
            max_epochs=20,
            train_split=None,
            verbose=0,
        )
        net.fit(source, labels.astype(np.int64))
        print(f"skorch, weight {weight:g}   {net.score(target, hidden):.0%}")
