"""The reader of uploads before 0.1; it is in `e2evit.cli.uploads`."""

import json
import warnings
from pathlib import Path

import numpy as np

from e2evit.cli import uploads

_PROCESSOR = Path(__file__).parents[1] / "checkpoints/linearvit/preprocessor_config.json"


def read_upload(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """As [`e2evit.cli.uploads.read_upload`], for the channels of the bundled LinearViT."""
    warnings.warn("reading.read_upload is now e2evit.cli.uploads.read_upload.", DeprecationWarning, stacklevel=2)
    channel_names = json.loads(_PROCESSOR.read_text(encoding="utf-8"))["channel_names"]
    return uploads.read_upload(path, channel_names[: shape[0]], shape[1:])
