"""Run ONNX files with any onnxruntime and Python, even old ones; `benchmarks/cmssw.py` calls it.

    PYTHON benchmarks/run_onnx.py IMAGES.npy FILE.onnx ...

Writes the outputs of each file, by name, beside it (`FILE.npz`) and prints the version of onnxruntime. Needs numpy and
onnxruntime only.
"""

import sys

import numpy as np
import onnxruntime


def main(images, files):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    images = np.load(images)
    for path in files:
        session = onnxruntime.InferenceSession(path, options)
        names = [output.name for output in session.get_outputs()]
        # all at once, and one by one: the last images are unlike the others
        together = session.run(names, {"inputs": images})
        alone = zip(*[session.run(names, {"inputs": images[i : i + 1]}) for i in range(len(images))])
        outputs = {name: np.concatenate([values, *own]) for name, values, own in zip(names, together, alone)}
        np.savez(path[: -len(".onnx")] + ".npz", **outputs)
    print(onnxruntime.__version__)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
