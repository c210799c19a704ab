"""Experiment trackers through accelerate: TensorBoard by default, written by rank 0 alone."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any


class Trackers:
    """The trackers that a recipe names, used as one; without names it does nothing.

    Args:
        names: of accelerate's trackers, "tensorboard", "wandb", "mlflow".
        folder: where file-based trackers write, in a folder of their own name.
        hyperparameters: stored with the run.
    """

    def __init__(self, names: list[Any], folder: Path, hyperparameters: dict[str, Any]) -> None:
        self._trackers = []
        if not names:
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers ask it which rank this is
        for name in names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            folders = {"logging_dir": str(folder / name)} if kind.requires_logging_directory else {}
            tracker = kind(run_name="listwise", **folders)
            tracker.start()
            scalar = (int, float, str, bool)
            tracker.store_init_configuration(
                {key: value if isinstance(value, scalar) else str(value) for key, value in hyperparameters.items()}
            )
            self._trackers.append(tracker)

    def log(self, record: dict[str, Any]) -> None:
        """Writes the numbers of one metrics line at its step."""
        values = {key: value for key, value in record.items() if isinstance(value, (int, float)) and key != "step"}
        for tracker in self._trackers:
            named = {key.replace("@", "_at_"): value for key, value in values.items()}  # MLflow takes no @ in a name
            tracker.log(named if tracker.name == "mlflow" else values, step=record["step"])

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for tracker in self._trackers:
            tracker.finish()
