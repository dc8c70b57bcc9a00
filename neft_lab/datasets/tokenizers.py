"""What decides a tokenizer's output, as one digest: its content, and never the folder it was loaded from."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any


def tokenizer_digest(tokenizer: Any) -> str | None:
    """SHA-256 of a transformers tokenizer's content; None for code of other origin, which may do anything."""
    kind = type(tokenizer)
    if not kind.__module__.startswith("transformers."):
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = _fast_content(backend) if backend is not None else _slow_content(tokenizer)
    if content is None:
        return None
    told = [kind.__name__, importlib.metadata.version("transformers"), tokenizer.eos_token, content]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _fast_content(backend: Any) -> str:
    if backend.padding or backend.truncation:  # left behind by whoever called it last
        backend = copy.deepcopy(backend)
        backend.no_padding()
        backend.no_truncation()
    return str(backend.to_str())


def _slow_content(tokenizer: Any) -> str | None:
    """Vocabulary files and settings of a tokenizer written in Python."""
    named = [getattr(tokenizer, name, None) for name in tokenizer.vocab_files_names]
    files = [Path(name) for name in named if name and Path(name).is_file()]
    if not files:
        return None
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    settings = {
        name: str(value) for name, value in tokenizer.init_kwargs.items() if "name_or_path" not in name
    }
    for name in tokenizer.vocab_files_names:
        settings.pop(name, None)
    return json.dumps([digests, settings, sorted(tokenizer.get_added_vocab().items())], sort_keys=True)
