"""Reading a tokenizer as its model knows it, from folders old and new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from neft_lab.config import UserError
from neft_lab.store import read_json


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder, not settled yet. Raises UserError where the folder leaves open how texts are cut."""
    settings = folder / "tokenizer_config.json"
    told = read_json(settings) if settings.is_file() else {}
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        if "tokenizer_class" not in told:
            # without it transformers cuts words otherwise than sentencepiece does, and says nothing
            raise UserError(f"'{folder}' has a tokenizer.model but no tokenizer.json; name the tokenizer_class "
                            "(LlamaTokenizer, say) in its tokenizer_config.json")  # fmt: skip
        if told.get("add_bos_token", True) and tokenizer.bos_token is not None:
            tokenizer.add_bos_token = True  # the default of such files, which transformers 5 has let go of
    return tokenizer
