"""`data`: the rows of the data set, limited and split into what trains and what measures."""

from __future__ import annotations

from steersman.data import sources
from steersman.data.sources import DataConfig
from steersman.stage import Inputs, Stage
from steersman.stages.inputs import DATASET
from steersman.store import StageFolder


def run(config: DataConfig, given: Inputs, out: StageFolder) -> None:
    """Write the rows, limited and split."""
    sources.run(config, given[DATASET], out)


DATA = Stage("data", (sources,), lambda r: r.examples, (DATASET,), run, recipe_key="examples")
