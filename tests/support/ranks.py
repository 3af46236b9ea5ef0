"""Processes that are ranks of torch.distributed on gloo, kept for many calls: importing torch takes longer."""

import datetime
import multiprocessing
import os
import socket
import tempfile
import traceback

import pytest
import torch

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="ranks are on CPUs, where kernels need the interpreter")
PRELOADED = ["torch", "torch.distributed.tensor", "triton_conv3dt.functional", "triton_conv3dt.nn"]
PATIENCE = 60  # seconds for one call
TIMEOUT = 15  # seconds that a rank waits for another


class Ranks:
    """A world of ranks. A function, with its arguments, is called on every one of them."""

    def __init__(self, world: int, timeout: float = TIMEOUT):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)  # imported once for all
        self.meeting = tempfile.NamedTemporaryFile()
        self.pipes, self.processes = [], []
        for rank in range(world):
            ours, theirs = context.Pipe()
            arguments = rank, world, timeout, self.meeting.name, theirs
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, function, *arguments) -> list:
        """The results, by rank. An exception of a rank, with its traceback, is an AssertionError here."""
        results = self.attempt(function, *arguments)
        failed = [f"rank {rank}:\n{result}" for rank, (fine, result) in enumerate(results) if not fine]
        assert not failed, "\n".join(failed)
        return [result for _, result in results]

    def attempt(self, function, *arguments) -> list[tuple[bool, object]]:
        """(True, result), or (False, traceback), of every rank; "lost" of one that has ended, or "hangs"."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        return [self._answer(rank, pipe) for rank, pipe in enumerate(self.pipes)]

    def _answer(self, rank, pipe):
        try:
            return pipe.recv() if pipe.poll(PATIENCE) else (False, "hangs")
        except EOFError:
            return False, "lost"

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.meeting.close()


def _serve(rank, world, timeout, meeting, pipe) -> None:
    torch.set_num_threads(1)
    interface = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = interface  # a machine may have no name that resolves
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world,
                                         timeout=datetime.timedelta(seconds=timeout))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:  # nobody has more to ask
            return
        try:
            answer = True, function(*arguments)
        except BaseException:
            answer = False, traceback.format_exc()
        pipe.send(answer)
