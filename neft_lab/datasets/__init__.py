"""Instruction sets: files and hub repositories to conversations, conversations to token ids and labels."""

from neft_lab.datasets.conversations import load_conversations, read_conversations
from neft_lab.datasets.examples import IGNORED, Example, tokenize
from neft_lab.datasets.instructions import (
    Instruction,
    fingerprints,
    load_instructions,
    refuse_leaked,
    stored_instructions,
)
from neft_lab.datasets.preparation import Prepared, prepare_examples
from neft_lab.datasets.rows import DATA_SUFFIXES, data_files, read_rows, stored_files

__all__ = [
    "DATA_SUFFIXES",
    "IGNORED",
    "Example",
    "Instruction",
    "Prepared",
    "data_files",
    "fingerprints",
    "load_conversations",
    "load_instructions",
    "prepare_examples",
    "read_conversations",
    "read_rows",
    "refuse_leaked",
    "stored_files",
    "stored_instructions",
    "tokenize",
]
