"""One training in several processes of this machine: started, watched, checked, and resumed by another number of them.

``launch`` starts them and tells what ended them; ``sharding`` says what a machine can do, looks that the processes
really share the work, and gathers the weights; ``checkpoints`` finds what a training can go on from.
"""

from neft_lab.processes.checkpoints import Resumable, find_resumable, read_counts
from neft_lab.processes.launch import RankFailed, end_with_parent, launch
from neft_lab.processes.sharding import check_machine, check_sharing, gather_weights

__all__ = [
    "RankFailed",
    "Resumable",
    "check_machine",
    "check_sharing",
    "end_with_parent",
    "find_resumable",
    "gather_weights",
    "launch",
    "read_counts",
]
