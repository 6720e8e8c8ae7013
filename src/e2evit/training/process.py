"""Starting and ending the processes of a run: which device and precision Accelerate really gives us."""

import ctypes
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import datasets
import torch
import transformers
from accelerate import Accelerator, DataLoaderConfiguration, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, broadcast_object_list
from torch import distributed
from transformers.utils import is_torch_bf16_gpu_available

from .trackers import close_trackers

__all__ = ["decided_by_main", "end_processes", "is_first_process", "keep_freed_memory", "start_accelerator"]

logger = logging.getLogger(__name__)

GLOO_SECONDS = 0.2  # a thousand times what its threads need to free a tensor
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # set by torchrun and MPI
TRACKERS = ("tensorboard", "wandb", "trackio")
_Decision = TypeVar("_Decision")


def start_accelerator(
    mixed_precision: str = "auto",
    gradient_accumulation_steps: int = 1,
    report_to: str = "none",
    logging_dir: str | Path | None = None,
) -> Accelerator:
    """An `Accelerator` that knows all launched processes; the log says which device and precision it uses.

    On CPUs, Accelerate treats processes started by torchrun as independent unless it is told that they run on CPUs:
    each would train alone on all of the data. Here it is told.

    Args:
        report_to: Where metrics go: tensorboard (files in `logging_dir`), wandb, trackio, none, or auto: TensorBoard
            if it is installed.

    Raises:
        ValueError: for an unknown precision or tracker, one that is not installed, FSDP 1, or ZeRO-3.
        RuntimeError: if launched processes do not find each other.
    """
    if mixed_precision not in ("auto", "no", "bf16", "fp16"):
        raise ValueError(f"`mixed_precision` is auto, no, bf16 or fp16, got {mixed_precision!r}.")
    if report_to not in ("auto", "none", *TRACKERS):
        raise ValueError(f"`report_to` is auto, none, {' or '.join(TRACKERS)}, got {report_to!r}.")
    if report_to == "auto":
        report_to = "tensorboard" if find_spec("tensorboard") else "none"
    elif report_to != "none" and not find_spec(report_to):
        raise ValueError(f"`report_to: {report_to}` needs that package: pip install {report_to}.")
    on_cpu = not torch.accelerator.is_available()
    _forget_last_run()
    _rejoin()
    if mixed_precision == "auto":
        mixed_precision = "bf16" if _computes_in_bf16(on_cpu) else "no"
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=gradient_accumulation_steps,
        log_with=None if report_to == "none" else report_to,
        project_dir=None if logging_dir is None else str(logging_dir),
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True,
            non_blocking=torch.cuda.is_available(),  # whose batches are in pinned memory
        ),
    )
    if on_cpu and accelerator.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # Accelerate shards on accelerators only, and would silently not shard on CPUs
        plugin = FullyShardedDataParallelPlugin(fsdp_version=int(os.environ.get("FSDP_VERSION", "1")))
        for state in (PartialState(), accelerator.state):  # the second copies from the first whenever it is asked for
            state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("Weights are sharded by FSDP2 only: `fsdp_version: 2` in the file of `accelerate launch`.")
    deepspeed = accelerator.state.deepspeed_plugin
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise ValueError("DeepSpeed may shard gradients and optimizer (ZeRO-2); to shard weights, use FSDP2 instead.")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise RuntimeError(
            f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}: they would train "
            "separately. Launch with `accelerate launch --config_file recipes/accelerate/...`."
        )
    if on_cpu:
        # `accelerate launch` sets OMP_NUM_THREADS=1 unless told otherwise, which leaves the other cores idle
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, cores // local_processes))
        keep_freed_memory()
    is_main = accelerator.is_main_process
    if not (is_main and sys.stderr.isatty()):
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s", stream=sys.stdout)
    for library in ("accelerate", "datasets", "fsspec", "httpx", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logger.info(
        f"{accelerator.num_processes} process{'es' if accelerator.num_processes > 1 else ''} on {accelerator.device}, "
        f"{torch.get_num_threads()} threads each, precision {accelerator.mixed_precision}"
    )
    return accelerator


def is_first_process() -> bool:
    """Whether this will be the main one of the processes that were launched together, even before they have met."""
    return next((int(os.environ[name]) == 0 for name in RANKS if os.environ.get(name)), True)


def decided_by_main(accelerator: Accelerator, decide: Callable[[], _Decision]) -> _Decision:
    """What `decide` returns or raises on the main process, on all of them; all must call this."""
    outcome: list = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = decide()
        except (OSError, ValueError) as error:
            outcome[1] = error
    value, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return value


def keep_freed_memory() -> None:
    """Have glibc keep the memory that tensors free for the tensors of the next step; does nothing elsewhere.

    glibc returns blocks of 32 MiB or more to the kernel, which zeroes them page by page for the next tensor: up to a
    ninth of a training step (`benchmarks/freed_memory.py`).
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**31 - 1)
        libc.mallopt(trim_threshold, -1)  # without bound


def end_processes(accelerator: Accelerator) -> None:
    """Leave the process group once all processes are here; [`start_accelerator`] can then start again.

    Gloo's threads free the tensors of the last exchange, for which they need Python's lock. A process that leaves at
    once holds that lock while it waits for these very threads: it hangs forever or is aborted, here or where the last
    object that knows the group, such as a model wrapped for DDP, is freed. Here it first waits without the lock.
    """
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        time.sleep(GLOO_SECONDS)  # the others may have been waiting: then that took no time
    close_trackers(accelerator)
    if accelerator.num_processes > 1:
        _ended_groups.append(distributed.get_backend())
    accelerator.end_training()
    PartialState._reset_state()
    _forget_last_run()


def _forget_last_run() -> None:
    """Let the next run choose its precision and accumulation, also after one that ended by an exception."""
    AcceleratorState._reset_state()
    GradientState._reset_state()


_ended_groups: list[str] = []  # backends


def _rejoin() -> None:
    """Form a new process group after [`end_processes`] has left one.

    torchrun's store still holds the addresses of the old group, to which a process that is early would connect.
    """
    if not _ended_groups or distributed.is_initialized() or "MASTER_PORT" not in os.environ:
        return
    size = int(os.environ["WORLD_SIZE"])
    store = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=False)
    prefix = f"e2evit_{len(_ended_groups)}"
    distributed.init_process_group(
        _ended_groups[-1], store=distributed.PrefixStore(prefix, store), rank=int(os.environ["RANK"]), world_size=size
    )


def _computes_in_bf16(on_cpu: bool) -> bool:
    """Whether bfloat16 is faster than float32."""
    if on_cpu:
        # without AMX, bfloat16 was measured slower than float32 on one processor, faster on AMD's (Zen 4, Zen 5)
        cpu = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13 has it
        is_amd = "AMD" in cpu.get("cpu_name", "")
        return torch.cpu._is_amx_tile_supported() or (is_amd and cpu.get("avx512_bf16", False))
    return is_torch_bf16_gpu_available()
