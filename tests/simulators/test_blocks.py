"""Blocks of trajectories on several threads: the same bits, one failure ends all, progress rises to the end."""

import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eddycast.simulators import get_system, integrate, uniform_times
from eddycast.simulators.blocks import ROW_BLOCK, row_blocks, run_blocks

KS = get_system("kuramoto-sivashinsky")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@given(st.integers(1, 5000), st.integers(1, 10**6), st.integers(1, 16))
def test_blocks_are_whole_and_of_eight_rows(rows, points, threads):
    blocks = row_blocks(rows, points, threads)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(rows))
    sizes = [block.stop - block.start for block in blocks]
    assert all(size % ROW_BLOCK == 0 for size in sizes[:-1]) and max(sizes) == sizes[0]
    assert threads > 1 or len(blocks) == 1
    assert rows * points >= 2**14 or len(blocks) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("own", [False, True])
def test_threads_change_no_bit(two_threads, dtype, own):
    """With one length for all and with a length per trajectory, also where the last block is not full."""
    rows, points = 300, 128
    generator = torch.Generator().manual_seed(0)
    state = 0.5 * torch.randn(rows, 1, points, dtype=dtype, generator=generator)
    lengths = torch.full((rows, 1), 36.0, dtype=torch.float64)
    if own:
        lengths = lengths + 4 * torch.rand(rows, 1, dtype=torch.float64, generator=generator)
    grid, times = KS.grid((points,), lengths), uniform_times(0.2, 5)
    assert len(row_blocks(rows, points, 2)) == 2
    shared = integrate(KS, state, lengths, grid, times)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = integrate(KS, state, lengths, grid, times)
    assert torch.equal(shared, alone)
    assert torch.equal(integrate(KS, state[None], lengths[None], grid, times)[0], alone)
    assert not torch.equal(alone[:, 0], alone[:, -1])


def test_discarded_outputs_are_passed_through(two_threads):
    state = torch.randn(256, 1, 128, generator=torch.Generator().manual_seed(1))
    parameters, seen = KS.info.default_parameters(), []
    grid, times = KS.grid((128,)), uniform_times(0.1, 6)
    whole = integrate(KS, state, parameters, grid, times)
    tail = integrate(KS, state, parameters, grid, times, discard=4, observer=seen.append)
    assert torch.equal(tail, whole[:, 4:])
    assert seen == sorted(seen) and seen[-1] == 6
    watched = integrate(KS, state[:2].clone().requires_grad_(), parameters, grid, times, discard=4)
    assert watched.requires_grad and torch.allclose(watched, whole[:2, 4:], atol=1e-4)


def test_store_says_what_is_kept(two_threads):
    state = torch.randn(256, 1, 128, generator=torch.Generator().manual_seed(1))
    parameters, grid, times = KS.info.default_parameters(), KS.grid((128,)), uniform_times(0.1, 3)
    whole = integrate(KS, state, parameters, grid, times)
    halved = integrate(KS, state, parameters, grid, times, store=lambda fine: fine[..., ::2])
    assert torch.equal(halved, whole[..., ::2])


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_failure_in_any_block_ends_all_and_is_told(two_threads, number):
    blocks = [slice(8 * at, 8 * at + 8) for at in range(4)]
    before = threading.active_count()

    def work(block, advance):
        for index in range(10**6):
            if block == blocks[number] and index == 3:
                raise ArithmeticError(f"block {number}")
            time.sleep(1e-4)
            if not advance() or (number >= 2 and index == 20):  # the first two end, so that the others begin
                return

    with pytest.raises(ArithmeticError, match=f"block {number}"):
        run_blocks(work, blocks, threads=2, total=10**6, observer=lambda done: None)
    assert threading.active_count() == before and torch.get_num_threads() == 2


def test_an_interrupt_in_the_observer_ends_all(two_threads):
    """A stop that is asked for while the other thread works."""
    before = threading.active_count()

    def work(block, advance):
        while advance():
            time.sleep(1e-4)

    def stop(done):
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_blocks(work, [slice(0, 8), slice(8, 16)], threads=2, total=10**6, observer=stop)
    assert threading.active_count() == before and torch.get_num_threads() == 2


def test_inference_mode_reaches_all_threads(two_threads):
    """A result made in that mode may only be written in it."""
    state = torch.randn(256, 1, 128, generator=torch.Generator().manual_seed(1))
    parameters, grid, times = KS.info.default_parameters(), KS.grid((128,)), uniform_times(0.1, 2)
    expected = integrate(KS, state, parameters, grid, times)
    with torch.inference_mode():
        assert torch.equal(integrate(KS, state, parameters, grid, times), expected)


def test_gradients_stay_off_in_all_threads(two_threads):
    modes = []

    def work(block, advance):
        modes.append(torch.is_grad_enabled())
        time.sleep(0.05)
        advance()

    run_blocks(work, [slice(0, 8), slice(8, 16)], threads=2, total=1, observer=lambda done: None)
    assert modes == [False, False] and torch.is_grad_enabled()
