"""Predict jets with a Triton server as SONIC's clients do: one request holds the jets of an event.

    pip install "tritonclient[grpc]"  # in an environment of its own: it pins older packages than e2evit's
    python deploy/cmssw/client.py linearvit onnx/linearvit_row.txt [ROW.txt ...] --url localhost:8001

A row is a text file of `pixel_index pixel_value` lines, as `e2evit export` writes one; `deploy/cpp` reads the same.
Prints one line per row: the outputs in the model's order, `name=value[,value...]`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException


def read_row(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The image `shape` `(C, H, W)` of a row."""
    pixels = np.zeros(np.prod(shape), np.float32)
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        try:
            index, value = int(words[0]), float(words[1])
        except (ValueError, IndexError):
            index, value = -1, 0.0
        if len(words) != 2 or not 0 <= index < pixels.size or not np.isfinite(value) or pixels[index]:
            raise ValueError(
                f"{path}, line {number}: expected `pixel_index pixel_value` of another one of {pixels.size} pixels, "
                f"got {line!r}"
            )
        pixels[index] = value
    return pixels.reshape(shape)


def predict(client: InferenceServerClient, model: str, rows: list[str], timeout: float, tries: int):
    """Outputs by name, `(jets, width)`; sizes, names and the largest batch are those that the server knows."""
    config = client.get_model_config(model).config
    (inputs,) = config.input
    images = np.stack([read_row(row, tuple(inputs.dims)) for row in rows])
    if len(images) > config.max_batch_size:
        raise ValueError(f"{model} takes {config.max_batch_size} jets at a time, got {len(images)}")
    sent = InferInput(inputs.name, list(images.shape), "FP32")
    sent.set_data_from_numpy(images)
    wanted = [InferRequestedOutput(output.name) for output in config.output]
    for left in reversed(range(tries)):
        try:
            answer = client.infer(model, [sent], outputs=wanted, client_timeout=timeout)
            return {output.name: answer.as_numpy(output.name) for output in config.output}
        except InferenceServerException:
            if not left:
                raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of the model on the server")
    parser.add_argument("rows", nargs="+", help="jets of one event")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC address")
    parser.add_argument("--timeout", type=float, default=30, help="seconds that a request may take")
    parser.add_argument("--tries", type=int, default=1, help="requests before giving up")
    arguments = parser.parse_args()
    try:
        with InferenceServerClient(arguments.url) as client:
            outputs = predict(client, arguments.model, arguments.rows, arguments.timeout, max(1, arguments.tries))
    except (InferenceServerException, OSError, ValueError) as error:
        sys.exit(f"client.py: {error}")
    for jet in range(len(arguments.rows)):
        values = {name: ",".join(f"{value:.9g}" for value in output[jet]) for name, output in outputs.items()}
        print(*(f"{name}={text}" for name, text in values.items()))


if __name__ == "__main__":
    main()
