"""Files that lie, and what readers make of them; see `benchmarks/fuzz.py`."""

import os

# before anything is imported: no file may send a reader to the Hub, and forks of one thread are cheap
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
