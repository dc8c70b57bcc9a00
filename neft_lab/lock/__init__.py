"""The lock of a sweep: what was run, on what, and the digest of all it left; verified and bundled from that alone.

python -m neft_lab.lock verify results/sweeps/NAME
python -m neft_lab.lock bundle results/sweeps/NAME --to DIR
"""

from neft_lab.lock.bundle import bundle
from neft_lab.lock.content import LOCK, write_lock
from neft_lab.lock.verify import Verdict, verify

__all__ = ["LOCK", "Verdict", "bundle", "verify", "write_lock"]
