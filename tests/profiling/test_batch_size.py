"""The batch-size search against known capacities, real allocation failures, and memory that is really held."""

import math
import weakref

import pytest
import torch

from finetune.profiling.batch_size import find_batch_size, is_out_of_memory
from finetune.profiling import memory

MEGABYTE = 2**20


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collects no garbage between tries, which takes a tenth of a second each."""
    monkeypatch.setattr("finetune.profiling.batch_size.free_memory", lambda: None)


class Machine:
    """Steps fit up to a capacity, and what was tried is noted."""

    def __init__(self, capacity: int, error: BaseException | None = None) -> None:
        self.capacity = capacity
        self.error = error or RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        self.tried: list[int] = []

    def __call__(self, size: int) -> None:
        self.tried.append(size)
        if size > self.capacity:
            raise self.error


@pytest.mark.parametrize("start", [1, 2, 3, 16])
@pytest.mark.parametrize("limit", [16, 50, 1024])
@pytest.mark.usefixtures("quick")
def test_the_largest_size_that_fits_is_found_in_few_tries(start: int, limit: int) -> None:
    for capacity in [*range(1, 70), 500, 2000]:
        machine = Machine(capacity)
        assert find_batch_size(machine, start, limit) == min(capacity, limit), capacity
        assert len(machine.tried) == len(set(machine.tried)) <= 2 * math.log2(limit) + 2
        assert max(machine.tried) <= limit


@pytest.mark.usefixtures("quick")
def test_sizes_are_doubled_then_bisected() -> None:
    machine = Machine(capacity=11)
    find_batch_size(machine, start=2)
    assert machine.tried == [2, 4, 8, 16, 12, 10, 11]


@pytest.mark.usefixtures("quick")
def test_a_single_image_is_tried_only_if_two_do_not_fit() -> None:
    machine = Machine(capacity=1)
    assert find_batch_size(machine) == 1
    assert machine.tried == [2, 1]


def test_what_torch_raises_when_memory_is_really_used_up_is_recognized() -> None:
    def try_step(size: int) -> None:
        torch.empty(size, 10**17, dtype=torch.uint8) if size > 5 else torch.empty(size)

    assert find_batch_size(try_step) == 5
    with pytest.raises(RuntimeError) as real:
        try_step(6)
    assert is_out_of_memory(real.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.65 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contigu"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("quick")
def test_an_error_of_memory_means_that_the_size_does_not_fit(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert find_batch_size(Machine(7, error)) == 7


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("a label is out of memory"),
        KeyboardInterrupt(),
        ZeroDivisionError(),
    ],
    ids=repr,
)
@pytest.mark.usefixtures("quick")
def test_any_other_error_passes_through(error: BaseException) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised:
        find_batch_size(Machine(7, error))
    assert raised.value is error


@pytest.mark.usefixtures("quick")
def test_when_not_even_one_fits_the_last_error_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"not even a batch of 1 fits .* CUDA out of memory. Tried to allocate"):
        find_batch_size(Machine(capacity=0))


@pytest.mark.parametrize(("start", "limit"), [(0, 8), (9, 8), (-1, 8), (1, 0)])
def test_a_range_without_a_size_is_refused(start: int, limit: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= start <= limit"):
        find_batch_size(Machine(4), start, limit)


def test_what_a_failed_step_held_is_freed_before_the_next_try() -> None:
    held: list[weakref.ref] = []

    def try_step(size: int) -> None:
        assert [ref() for ref in held] == [None] * len(held)
        activations = torch.ones(size)
        cycle = [activations]
        cycle.append(cycle)
        held.append(weakref.ref(activations))
        if size > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert find_batch_size(try_step, start=1) == 5
    assert len(held) == 6


def test_a_memory_limit_is_kept_without_ever_being_exceeded() -> None:
    room, image, overhead = 300 * MEGABYTE, 10 * MEGABYTE, 50 * MEGABYTE
    tried = []
    weights = []

    def try_step(size: int) -> None:
        tried.append(size)
        if not weights:
            weights.append(torch.ones(overhead // 4))
        torch.ones(size * image // 4)

    found = find_batch_size(try_step, memory_limit=(memory.resident() or 0) + room)
    assert 23 <= found <= 25 == (room - overhead) // image
    assert max(tried) <= 25


def test_a_step_that_turns_out_to_exceed_the_memory_limit_does_not_fit() -> None:
    def try_step(size: int) -> None:
        torch.ones((400 if size > 5 else 1) * MEGABYTE // 4)

    assert find_batch_size(try_step, memory_limit=(memory.resident() or 0) + 200 * MEGABYTE) == 5


@pytest.mark.usefixtures("quick")
def test_a_memory_limit_below_what_is_held_already_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"a batch of 1 would take about .* GB of 0.00"):
        find_batch_size(Machine(4), memory_limit=1000)
