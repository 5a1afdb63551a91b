"""Results that Polygraphy saved, as the reference that an engine is held against.

They are answers to the inputs that were saved in the same run, and to no others. Shapes, types and what the outputs
mean are read off the engine's own graph, which is timed beside the engine too: saved results have no times that hold
here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from radixrt.calibration.arrays.saved import Row, read_outputs
from radixrt.calibration.arrays.source import ArrayList
from radixrt.engines.runners import Outputs
from radixrt.errors import InputError
from radixrt.export.feed import Feed
from radixrt.prepare import Prepared
from radixrt.reference import Reference


def is_saved(reference: str | None) -> bool:
    """Says whether a reference is a file of results rather than a network."""
    return reference is not None and reference.endswith(".json")


@dataclass(frozen=True)
class SavedResults:
    """Answers to the inputs of one run, in their order."""

    file: Path
    answers: Sequence[Row]

    @classmethod
    def read(cls, reference: str | None) -> SavedResults | None:
        """Reads what ``polygraphy run --save-outputs`` wrote; None where the reference is a network.

        Raises:
            InputError: there is no such file, or it holds no results.
            UnavailableError: Polygraphy is not installed.
        """
        if reference is None or not is_saved(reference):
            return None
        file = Path(reference)
        if not file.is_file():
            raise InputError(f"there are no results at {file}: name what `polygraphy run --save-outputs` wrote")
        return cls(file, read_outputs(file))

    def in_place_of_the_network(self, prepared: Prepared) -> Prepared:
        """The same, with these answers in the place of its own.

        Args:
            prepared: the engine's own graph, and the inputs of the same run as its data.

        Raises:
            InputError: the data is something else than what these results answer.
        """
        samples, name = prepared.data.calibration, self.file.name
        if not isinstance(samples, ArrayList):
            raise InputError(f"{self.file} answers saved inputs: name them with --data, as --save-inputs wrote them")
        known = dict[str, Row]()
        for batch in samples.batches(8):
            for row, index in enumerate(int(one.removeprefix("#")) for one in batch.names):
                if index >= len(self.answers):
                    raise InputError(
                        f"{self.file} has {len(self.answers)} answers, and {prepared.data.spec} more samples: save "
                        "both in one run"
                    )
                known[_digest(batch.inputs, row)] = self.answers[index]

        def run(feed: Feed) -> Outputs:
            rows = [known.get(_digest(feed, row)) for row in range(len(next(iter(feed.values()))))]
            found = [row for row in rows if row is not None]
            if len(found) < len(rows):
                raise InputError(f"{self.file} has no answer to a sample: save inputs and outputs in one run")
            return {name: np.stack([row[name] for row in found]) for name in found[0]}

        graph = prepared.reference
        remark = f"{name} has no times: those beside the engine are of its own graph, by {graph.name}."
        saved = Reference(f"saved results, timed by {graph.name}", "saved results", run, graph.timed, remark)
        return replace(prepared, reference=saved)


def _digest(feed: Feed, row: int) -> str:
    digest = hashlib.sha256()
    for name in sorted(feed):
        digest.update(np.ascontiguousarray(feed[name][row]).tobytes())
    return digest.hexdigest()
