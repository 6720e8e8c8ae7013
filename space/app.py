"""The demo as a Hugging Face Space: `e2evit demo` with a checkpoint chosen by an environment variable.

python space/app.py

`E2EVIT_CHECKPOINT` is a folder or Hub id; in a clone it defaults to the bundled LinearViT.
"""

import os
from pathlib import Path

from e2evit.cli.demo import build_demo, launch

demo = build_demo(os.environ.get("E2EVIT_CHECKPOINT", str(Path(__file__).parents[1] / "checkpoints/linearvit")))

if __name__ == "__main__":
    launch(demo)
