"""Triton's own client and protobuf messages, and a stand-in for its server.

    python tests/triton_server.py REPOSITORY COMMAND [ARGUMENT ...]

serves the models of a repository while the command runs, whose arguments `URL` become the server's address.

pip fetches the packages once, into `.pytest_cache`: as a dependency, tritonclient would hold back others
(ml_dtypes 0.5.4, protobuf 6).
"""

import hashlib
import os
import subprocess
import sys
from concurrent import futures
from pathlib import Path

PACKAGES = ("tritonclient==2.73.0", "grpcio==1.85.3", "python-rapidjson==1.25")


def fetch() -> Path:
    """The folder to import them from."""
    from fetched import fetch as fetch_packages  # not in the process that is a server

    return fetch_packages(*PACKAGES)


def parse_config(text: str):
    """A `ModelConfig`; unknown fields and values of other types are errors."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse(text, ModelConfig())


def float32() -> int:
    from tritonclient.grpc.model_config_pb2 import TYPE_FP32

    return TYPE_FP32


def serve(repository: Path):
    """A server, and its address; it answers as Triton does where clients of ours ask."""
    import grpc
    import numpy as np
    import onnxruntime
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    configs, sessions = {}, {}
    for folder in repository.iterdir():
        config = parse_config((folder / "config.pbtxt").read_text())
        (agent,) = config.model_repository_agents.agents
        assert agent.parameters == {
            "MD5:1/model.onnx": hashlib.md5((folder / "1/model.onnx").read_bytes()).hexdigest()
        }
        configs[folder.name] = config
        sessions[folder.name] = onnxruntime.InferenceSession(folder / "1/model.onnx")

    class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
        failures = int(os.environ.get("FAILURES", "0"))

        def ModelConfig(self, request, context):
            if request.name not in configs:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}'")
            return service_pb2.ModelConfigResponse(config=configs[request.name])

        def ModelInfer(self, request, context):
            if self.failures:
                Server.failures -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            config, (sent,) = configs[request.model_name], request.inputs
            batch, *sizes = sent.shape
            assert (sent.name, sent.datatype, sizes) == (config.input[0].name, "FP32", list(config.input[0].dims))
            assert 0 < batch <= config.max_batch_size
            values = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(sent.shape)
            names = [output.name for output in request.outputs]
            answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
            for name, found in zip(names, sessions[request.model_name].run(names, {sent.name: values})):
                answer.outputs.add(name=name, datatype="FP32", shape=found.shape)
                answer.raw_output_contents.append(found.tobytes())
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Server(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    return server, f"localhost:{port}"


if __name__ == "__main__":
    running, url = serve(Path(sys.argv[1]))
    code = subprocess.run([url if word == "URL" else word for word in sys.argv[2:]], check=False).returncode
    running.stop(None)
    sys.exit(code)
