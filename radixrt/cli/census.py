"""``radixrt models --attention``: how many attention blocks each known network has, and how many were lowered."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.passes.report import RewriteReport
from radixrt.export.reader.simplify import simplify
from radixrt.export.source.capture import capture
from radixrt.export.source.load import load
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.names import KnownModel, known_models, resolve
from radixrt.export.spec import BatchSpec
from radixrt.progress import Stages

# The structure does not depend on the resolution; small images keep the proofs short.
INPUT_SIZE = (3, 64, 64)


def census(known: KnownModel) -> RewriteReport:
    """Rewrites a network with random weights and reports what was found in it."""
    model = load(resolve(known.name), pretrained_timeout_s=0)
    assert model.module is not None
    graph = simplify(capture(model.module, ModuleInputs.image(INPUT_SIZE), BatchSpec()))
    return rewrite(graph, RewriteOptions())[1]


def print_attention(out: Console, stages: Stages) -> None:
    """Prints a row for each known network."""
    table = Table("name", "definition", "SE", "SK", "split", "lowered", "refused", "nodes")
    for entry in known_models():
        with stages.stage(entry.name):
            report = census(entry)
        kinds = Counter(block.kind for block in report.attention_blocks)
        lowered = sum(block.lowering != "" for block in report.attention_blocks)
        counts = (kinds["se"], kinds["sk"], kinds["split"], lowered, len(report.refused))
        nodes = f"{report.nodes_before} to {report.nodes_after}"
        table.add_row(entry.name, entry.definition, *(str(count) for count in counts), nodes)
        for refusal in report.refused:
            stages.note(f"{entry.name}: refused {refusal.node}: {refusal.reason}")
    out.print(table)
