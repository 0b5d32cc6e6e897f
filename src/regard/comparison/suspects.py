"""Photos whose label an out-of-fold head disputes: confident learning (Northcutt et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.inference.features import extract_features
from regard.inference.loaded import load_model
from regard.reporting.records import Suspect
from regard.results import RunResult

FOLDS = 5
MOST = 40


def suspects(
    ids: Sequence[str],
    features: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    seed: int = 0,
    most: int | None = MOST,
) -> tuple[Suspect, ...]:
    """Photos that a head trained on the other photos confidently calls something else, most confident first.

    features: (N, D) of a backbone that was not trained on these labels, or the dispute is never heard; labels: (N,).
    Classes with fewer photos than folds are left out: nothing out of fold can be said of them. most: of them all.
    """
    known = np.isin(labels, [label for label in np.unique(labels) if (labels == label).sum() >= FOLDS])
    rows = np.flatnonzero(known).tolist()
    if len(np.unique(labels[rows])) < 2:
        return ()
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probabilities = np.asarray(cross_val_predict(head, features[rows], labels[rows], cv=folds, method="predict_proba"))
    columns = np.unique(labels[rows])  # class numbers, as the head orders them
    answers, confidence = columns[probabilities.argmax(axis=1)], probabilities.max(axis=1)
    # Sure of a class is who is as sure as the head is, on average, of the photos that carry its label.
    sure = np.array([probabilities[labels[rows] == column, place].mean() for place, column in enumerate(columns)])
    disputed = np.flatnonzero((answers != labels[rows]) & (confidence >= sure[probabilities.argmax(axis=1)]))
    order = disputed[np.argsort(-confidence[disputed], kind="stable")][:most]
    return tuple(
        Suspect(
            ids[int(rows[row])],
            classes[int(labels[int(rows[row])])],
            classes[int(answers[row])],
            float(confidence[row]),
        )
        for row in order.tolist()
    )


def disputed(images: ImageSet, split: Split, run: RunResult) -> tuple[Suspect, ...]:
    """Likely mislabelled photos, read with the features of one run.

    A frozen backbone has seen no label, so every photo can be disputed; one that was trained has learnt its training
    labels by heart, so only the photos that it did not train on are. Labels that are no classes are not disputed.
    """
    if images.problem != "single_label":
        return ()
    loaded = load_model(run.folder)
    rows = np.arange(len(images)) if run.method == "head" else np.sort(np.concatenate([split.val, split.test]))
    features = extract_features(loaded, images, rows, views=(0,))[0]
    return suspects([images.ids[row] for row in rows], features, images.labels[rows], images.classes)
