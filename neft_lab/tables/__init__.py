"""Rows and claims to tables of text; nothing is computed here but rounding."""

from neft_lab.tables.ablation import BOLD, ablation_table
from neft_lab.tables.differences import (
    corrected_title,
    difference_notes,
    difference_table,
    p_text,
    primary_table,
)
from neft_lab.tables.leaderboard import leaderboard_csv
from neft_lab.tables.measured import band_table, dose_table, metric_table
from neft_lab.tables.table import Table, rounded

__all__ = [
    "BOLD",
    "Table",
    "ablation_table",
    "band_table",
    "corrected_title",
    "difference_notes",
    "difference_table",
    "dose_table",
    "leaderboard_csv",
    "metric_table",
    "p_text",
    "primary_table",
    "rounded",
]
