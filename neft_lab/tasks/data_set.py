"""What a task's data set is called, and the error of not finding it."""

from __future__ import annotations

from dataclasses import dataclass


class NoDocuments(Exception):
    """A task's documents are nowhere to be had; the message says where they were looked for."""


@dataclass(frozen=True)
class DataSet:
    """A data set as lm-eval names it: hub id, configuration, and the task that reads it."""

    path: str
    name: str | None
    task: str
