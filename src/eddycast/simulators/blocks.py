"""A batch in blocks of rows, one thread each: on a CPU this is where the second core comes from.

Threads within an operation meet after each one, a few microseconds apart, which costs more than it gains; whole blocks
need not meet before the end. Operations leave Python's lock while they compute, so Python threads do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, Thread

import torch

ROW_BLOCK = 8  # FFT libraries treat the rows of small batches with another kernel: other last digits
MIN_POINTS = 2**14  # in a block: below, Python's lock is what the threads wait for
MAX_POINTS = 2**16  # in a block: the intermediate states of a step then stay in the cache of a core

Advance = Callable[[], bool]
Work = Callable[[slice, Advance], None]


def row_blocks(rows: int, points: int, threads: int) -> list[slice]:
    """The rows in blocks of a multiple of 8 rows, about equally many for each thread; one block for one thread.

    Args:
        rows: Rows of the batch.
        points: Numbers per row.
        threads: Threads that share the blocks.
    """
    count = threads * math.ceil(rows * points / (threads * MAX_POINTS))
    count = 1 if threads == 1 else max(1, min(count, rows * points // MIN_POINTS))
    size = ROW_BLOCK * math.ceil(rows / count / ROW_BLOCK)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def run_blocks(work: Work, blocks: list[slice], *, threads: int, total: int, observer: Callable[[int], None]) -> None:
    """Call `work(block, advance)` for each block, side by side, with operations of one thread each.

    Args:
        work: Treats one block. It calls `advance()` after each of its parts and returns at once where that says False,
            because another block failed or was interrupted.
        blocks: From `row_blocks`.
        threads: Threads, this one among them.
        total: Parts of each block.
        observer: Called from this thread alone with the parts done, averaged over the blocks; rises to `total`.

    Raises: whatever `work` or `observer` raises; all threads have ended by then.
    """
    waiting: SimpleQueue[slice] = SimpleQueue()
    for block in blocks:
        waiting.put(block)
    done = [0] * threads  # parts, by thread: each writes its own
    failures: list[BaseException] = []
    stop = Event()
    inference = torch.is_inference_mode_enabled()

    def serve(number: int, report: Callable[[], None]) -> None:
        def advance() -> bool:
            done[number] += 1
            report()
            return not stop.is_set()

        try:
            with torch.inference_mode(inference), torch.no_grad():  # modes belong to a thread
                while not stop.is_set():
                    work(waiting.get_nowait(), advance)
        except Empty:
            return
        except BaseException as failure:  # handed on to the caller's thread
            failures.append(failure)
            stop.set()

    reported = 0

    def report() -> None:
        nonlocal reported
        if (now := sum(done) // len(blocks)) > reported:
            reported = now
            observer(now)

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # new threads inherit it
    helpers = [Thread(target=serve, args=(number, lambda: None), daemon=True) for number in range(1, threads)]
    try:
        for helper in helpers:
            helper.start()
        serve(0, report)
    except BaseException:
        stop.set()
        raise
    finally:
        for helper in helpers:
            helper.join()
        torch.set_num_threads(before)
    if failures:
        raise failures[0]
    if reported < total:
        observer(total)
