"""The paper's published numbers, and ours beside them: ``paper.md``, ``paper.tex``, ``paper.csv`` of a sweep."""

from neft_lab.paper.numbers import Published, read_numbers
from neft_lab.paper.table import Beside, paper_table, set_beside, write_paper

__all__ = ["Beside", "Published", "paper_table", "read_numbers", "set_beside", "write_paper"]
