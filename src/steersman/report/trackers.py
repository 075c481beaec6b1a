"""A run's events for the trackers of others: TensorBoard, Weights & Biases, MLflow, trackio.

The events are read from the run's folder, so that a training knows of no tracker, and a finished run can be shown as
well as one that is going on. Nothing is sent unless `steersman track` is run with the tracker's name; what it then
sends, and where to, is the tracker's own setting.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from steersman.errors import UserError
from steersman.report.evidence import read_recipe
from steersman.report.format import finite
from steersman.store import Run, read_json

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
POLL_SECONDS = 2.0
NOT_METRICS = ("time", "step", "seconds")


class Point(NamedTuple):
    """Numbers of one stage at one step; names are ``stage/event/number``, without the event for training steps."""

    stage: str
    step: int
    values: dict[str, float]


class Tracker(Protocol):
    """Where points go."""

    def log(self, point: Point) -> None:
        """Add a point."""
        ...

    def close(self) -> None:
        """After the last point."""
        ...


def points(run: Run, *, follow: bool, sleep: Callable[[float], None] = time.sleep) -> Iterator[Point]:
    """The points of all stages, in the order in which they happened.

    Args:
        follow: go on until the run's last stage has ended, for a run that is going on.
    """
    seen = 0
    last = read_json(run.path / "run.json")["stages"][-1]
    while True:
        rows = run.events()
        for row in rows[seen:]:
            if values := _numbers(row):
                yield Point(row["stage"], int(row.get("step", 0)), values)
        seen = len(rows)
        if not follow or any(row["event"] == "finish" and row.get("stage") == last for row in rows):
            return
        sleep(POLL_SECONDS)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    prefix = row.get("stage", "") + ("" if row["event"] == "train" else f"/{row['event']}")
    found = (
        (name, finite(value)) for name, value in row.items() if name not in NOT_METRICS and type(value) is not bool
    )
    return {f"{prefix}/{name}": value for name, value in found if value is not None}


def track(run: Run, kind: str, *, follow: bool = False) -> int:
    """Send a run's points to a tracker; returns how many.

    Raises:
        UserError: the tracker's package is not installed.
    """
    tracker = TRACKERS[kind](run, _imported(kind))
    count = 0
    try:
        for point in points(run, follow=follow):
            tracker.log(point)
            count += 1
    finally:
        tracker.close()
    return count


def _imported(kind: str) -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard" if kind == "tensorboard" else PACKAGES[kind])
    except ImportError as error:
        do = f"run: pip install {PACKAGES[kind]}"
        raise UserError(f"the package {PACKAGES[kind]} is not installed", where=f"--to {kind}", do=do) from error


# ── trackers ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class TensorBoard:
    """Scalars in RUN/tensorboard, for ``tensorboard --logdir RUN/tensorboard``."""

    def __init__(self, run: Run, package: Any) -> None:
        self.writer = package.SummaryWriter(str(run.path / "tensorboard"))

    def log(self, point: Point) -> None:
        """Add a point."""
        for name, value in point.values.items():
            self.writer.add_scalar(name, value, point.step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class WandbLike:
    """Weights & Biases, and trackio, which has its interface. Every stage has a step of its own."""

    def __init__(self, run: Run, package: Any) -> None:
        self.package = package
        package.init(project="steersman", name=run.path.name, config=read_recipe(run))

    def log(self, point: Point) -> None:
        """Add a point."""
        self.package.log({**point.values, f"{point.stage}/step": point.step})

    def close(self) -> None:
        """End the tracker's run."""
        self.package.finish()


class Mlflow:
    """An MLflow run in the experiment ``steersman``, with the recipe as a file."""

    def __init__(self, run: Run, package: Any) -> None:
        self.package = package
        package.set_experiment("steersman")
        package.start_run(run_name=run.path.name)
        package.log_dict(read_recipe(run), "recipe.json")

    def log(self, point: Point) -> None:
        """Add a point."""
        self.package.log_metrics(point.values, step=point.step)

    def close(self) -> None:
        """End the tracker's run."""
        self.package.end_run()


TRACKERS: dict[str, Callable[[Run, Any], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandbLike,
    "trackio": WandbLike,
    "mlflow": Mlflow,
}
