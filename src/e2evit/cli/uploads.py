"""Files that strangers upload, read in a separate process with limits on size, memory and time.

A small file can unpack to a huge one, and a broken one can crash the library that reads it.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

MAX_UPLOAD = "20mb"
READ_SECONDS, READ_BYTES = 60, 8 * 2**30  # of the process that reads an upload; libraries map 4 GiB of addresses
_READ = """
import sys
import numpy as np
from e2evit.modeling.pipeline_e2e import file_channels, read_images
path, output, height, width, *expected = sys.argv[1:]
shape = (len(expected), int(height), int(width))
try:
    channel_names = file_channels(path) or expected
    image = next(iter(read_images(path, shape)), None)
    if image is None:
        raise ValueError(f"{path}: it holds no image.")
    if isinstance(image, dict):
        from e2evit.data.sparse import sparse_to_dense
        from e2evit.modeling import E2EImageProcessor
        from e2evit.modeling.geometry_e2e import TRANSVERSE, transverse_factor, window_rows
        E2EImageProcessor(expected, shape[1:])(image, channel_names=channel_names)  # checks it
        ieta = image.get("ieta")
        image = sparse_to_dense(image["pixel_index"], image["pixel_value"], shape)
        for number in range(shape[0]):
            if channel_names[number] != expected[number]:  # plain energies, which have a place
                rows = window_rows(np.arange(shape[1]), shape[1], ieta)
                filled = image[number].any(axis=1)
                is_ecal = np.full(filled.sum(), TRANSVERSE["ecal"] == expected[number])
                image[number, filled] *= transverse_factor(rows[filled], is_ecal)[:, None]
    image = np.asarray(image, dtype=np.float32)
    image = image if image.shape == shape else np.moveaxis(image, -1, 0)
    if not np.isfinite(image).all():
        raise ValueError(f"{path}: the image holds NaN or infinite pixels.")
    np.save(output, image)
except (ImportError, OSError, ValueError) as error:
    sys.exit(str(error))
"""


def read_upload(path: str, channel_names: Sequence[str], image_size: tuple[int, int]) -> np.ndarray:
    """The first image of a file, `(channels, height, width)`.

    Plain energies of Parquet rows become transverse where the channels are; other files do not name their channels
    and are taken to hold these.

    Args:
        channel_names: Channels of the image.
        image_size: Height and width.

    Raises:
        ValueError: with one line that says what is wrong.
    """
    size = os.path.getsize(path) / 2**20
    if size > float(MAX_UPLOAD.removesuffix("mb")):
        raise ValueError(f"The file has {size:.0f} MB; at most {MAX_UPLOAD} are read.")
    name = os.path.basename(path)
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/image.npy"
        command = [sys.executable, "-c", _READ, path, output, *map(str, image_size), *channel_names]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=READ_SECONDS,
                check=False,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (READ_BYTES, READ_BYTES)),
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{name} could not be read within {READ_SECONDS} seconds.") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["the process that read it died"])[-1]
            raise ValueError(last.replace(path, name))
        return np.load(output, allow_pickle=False)
