"""``embed``: a vector that lies near those of the same identity. Metric: retrieval among the test's own images.

Every image asks for the others, ranked by their cosine to it. recall@1: the nearest is of its identity; mAP: the mean
of the queries' average precisions, by torchmetrics. Images that are alone with their identity ask nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Samples
from radixrt.calibration.data.targets import TargetKind
from radixrt.errors import InputError
from radixrt.validate.bootstrap import measured, measured_shares
from radixrt.validate.quality import DetailTable, MetricSpec
from radixrt.validate.schema import Parity
from radixrt.validate.tasks.base import Example, Interface, Judge, OutputsJudged, Task, Trust
from radixrt.validate.tasks.gathered import GatheredJudge, Rows
from radixrt.validate.tasks.pictures import panels_of

RECALL, MAP = MetricSpec("recall_at_1", "recall@1"), MetricSpec("map", "mAP of retrieval")
COSINE = MetricSpec("cosine", "cosine to the original", by_labels=False)
MOST_ROWS, MOST_EXAMPLES = 20, 8


class Embed(Task):
    """N x D; from class folders, or a CSV file of identities."""

    name = "embed"
    reads = (TargetKind.CLASSES,)
    metrics = (RECALL, MAP, COSINE)

    def refusal(self, network: Interface) -> str | None:
        return None if network.classes > 1 else f"its main output is {network.described}, not N x numbers"

    def judge(self, network: Interface, trust: Trust) -> Judge:
        return _Vectors(network, trust)

    def check(self, network: Interface, images: Samples) -> None:
        identities = images.targets or ()
        if len(set(identities)) == len(identities):
            raise InputError(
                "no two test images are of the same identity, so none can be retrieved: give each at least two"
            )


class _Vectors(GatheredJudge):
    def concluded(self, close: Parity, before: Rows, after: Rows) -> OutputsJudged:
        units = [_units(rows) for rows in (before, after)]
        cosines = np.clip((units[0] * units[1]).sum(axis=1), -1, 1)
        cosine = measured(COSINE, lambda chosen: (1.0, float(cosines[chosen].mean())), len(cosines), None)
        if not self.targets:
            return OutputsJudged(close, metrics=[cosine])
        identities = np.asarray(self.targets)
        asking = np.flatnonzero([np.sum(identities == own) > 1 for own in identities])
        if not len(asking):
            return OutputsJudged(close, metrics=[cosine])
        found = [_Ranking.of(rows, identities, asking) for rows in units]
        first = [ranking.ranks == 1 for ranking in found]
        precisions = [ranking.precisions for ranking in found]
        moved = np.argsort(-np.abs(found[1].ranks - found[0].ranks), kind="stable")
        changed = [int(i) for i in moved if found[0].ranks[i] != found[1].ranks[i]]
        return OutputsJudged(
            close,
            metrics=[
                measured_shares(RECALL, (first[0], first[1]), self.trust.max_drop_points),
                measured(
                    MAP,
                    lambda chosen: (float(precisions[0][chosen].mean()), float(precisions[1][chosen].mean())),
                    len(asking),
                    None,
                ),
                cosine,
            ],
            tables=[self._ranks(found, asking, changed)],
            examples=[self._example(found, int(asking[i]), i) for i in changed[:MOST_EXAMPLES]],
        )

    def _ranks(self, found: list[_Ranking], asking: NDArray[np.intp], changed: list[int]) -> DetailTable:
        return DetailTable(
            title="The ranks that changed",
            note=f"Where the first image of the same identity stands; it moved for {len(changed)} of {len(asking)}.",
            head=["image", "original", "engine", "nearest, original", "nearest, engine"],
            rows=[
                [
                    self.names[asking[i]],
                    *(str(ranking.ranks[i]) for ranking in found),
                    *(self.names[ranking.nearest[i]] for ranking in found),
                ]
                for i in changed[:MOST_ROWS]
            ],
            numbers=[1, 2],
        )

    def _example(self, found: list[_Ranking], image: int, place: int) -> Example:
        before, after = found
        shown = [("image", self.pictures[image])]
        shown += [
            (f"nearest, {who}", self.pictures[ranking.nearest[place]])
            for who, ranking in (("original", before), ("engine", after))
        ]
        text = f"the first of its identity was rank {before.ranks[place]} and is rank {after.ranks[place]}"
        return Example(self.names[image], text, panels_of(shown))


class _Ranking:
    """How the images that ask find their own: the rank of the first, the average precision, and the nearest image."""

    def __init__(self, ranks: NDArray[np.intp], precisions: NDArray[np.float64], nearest: NDArray[np.intp]) -> None:
        self.ranks, self.precisions, self.nearest = ranks, precisions, nearest

    @classmethod
    def of(cls, units: Rows, identities: NDArray[np.int64], asking: NDArray[np.intp]) -> _Ranking:
        import torch
        from torchmetrics.functional.retrieval import retrieval_average_precision

        ranks, precisions, nearest = [], [], []
        for query in asking.tolist():
            others = np.delete(np.arange(len(units)), query)
            close, same = units[others] @ units[query], identities[others] == identities[query]
            order = np.argsort(-close, kind="stable")
            ranks.append(int(np.flatnonzero(same[order])[0]) + 1)
            nearest.append(int(others[order[0]]))
            precisions.append(float(retrieval_average_precision(torch.from_numpy(close), torch.from_numpy(same))))
        return cls(np.asarray(ranks), np.asarray(precisions), np.asarray(nearest))


def _units(rows: Rows) -> Rows:
    """Rows of length one; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), np.float32)
