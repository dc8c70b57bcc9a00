"""What the fork server imports once, so that a real process of the program starts in milliseconds."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import neft_lab.stages.analyze
import neft_lab.stages.generate
import neft_lab.stages.judge
import neft_lab.stages.leaderboard
import neft_lab.stages.train  # noqa: F401
from neft_lab.quiet import quiet_transformers

quiet_transformers()
