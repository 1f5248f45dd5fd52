"""The batch-size search against known capacities, real allocation failures and real memory use."""

import gc
import math
import weakref
from collections.abc import Iterator

import pytest
import torch

from finetune.profiling import memory
from finetune.profiling.batch_size import find_batch_size, free_memory, is_out_of_memory

MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def _cheap_collection() -> Iterator[None]:
    """Exclude the objects of all imported modules from garbage collections, which are slow with them."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the garbage collection between tries."""
    monkeypatch.setattr("finetune.profiling.batch_size.free_memory", lambda: None)


class FakeStep:
    """A step that fits up to a capacity and records the sizes that were tried."""

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
        step = FakeStep(capacity)
        assert find_batch_size(step, start, limit) == min(capacity, limit), capacity
        assert len(step.tried) == len(set(step.tried)) <= 2 * math.log2(limit) + 2
        assert max(step.tried) <= limit


@pytest.mark.usefixtures("quick")
def test_sizes_are_doubled_then_bisected() -> None:
    step = FakeStep(capacity=11)
    find_batch_size(step, start=2)
    assert step.tried == [2, 4, 8, 16, 12, 10, 11]


@pytest.mark.usefixtures("quick")
def test_a_single_image_is_tried_only_if_two_do_not_fit() -> None:
    step = FakeStep(capacity=1)
    assert find_batch_size(step) == 1
    assert step.tried == [2, 1]


def test_the_error_that_torch_raises_for_an_impossible_allocation_is_recognized() -> None:
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
def test_an_out_of_memory_error_means_that_the_size_does_not_fit(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert find_batch_size(FakeStep(7, error)) == 7


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
def test_any_other_error_is_raised(error: BaseException) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised:
        find_batch_size(FakeStep(7, error))
    assert raised.value is error


@pytest.mark.usefixtures("quick")
def test_the_error_names_the_last_failure_if_not_even_one_image_fits() -> None:
    with pytest.raises(RuntimeError, match=r"not even a batch of 1 fits .* CUDA out of memory. Tried to allocate"):
        find_batch_size(FakeStep(capacity=0))


@pytest.mark.parametrize(("start", "limit"), [(0, 8), (9, 8), (-1, 8), (1, 0)])
def test_an_empty_range_is_rejected(start: int, limit: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= start <= limit"):
        find_batch_size(FakeStep(4), start, limit)


def test_the_tensors_of_a_failed_step_are_freed_before_the_next_try() -> None:
    references: list[weakref.ref] = []

    def try_step(size: int) -> None:
        assert [reference() for reference in references] == [None] * len(references)
        activations = torch.ones(size)
        cycle = [activations]
        cycle.append(cycle)
        references.append(weakref.ref(activations))
        if size > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert find_batch_size(try_step, start=1) == 5
    assert len(references) == 6


def test_a_memory_limit_is_never_exceeded() -> None:
    free_memory()  # what earlier tests have left would be taken first
    free, image, overhead = 300 * MEGABYTE, 10 * MEGABYTE, 50 * MEGABYTE
    tried = []
    weights = []

    def try_step(size: int) -> None:
        tried.append(size)
        if not weights:
            weights.append(torch.ones(overhead // 4))
        torch.ones(size * image // 4)

    size = find_batch_size(try_step, memory_limit=(memory.resident() or 0) + free)
    assert 23 <= size <= 25 == (free - overhead) // image
    assert max(tried) <= 25


def test_a_step_that_turns_out_to_exceed_the_memory_limit_does_not_fit() -> None:
    free_memory()

    def try_step(size: int) -> None:
        torch.ones((400 if size > 5 else 1) * MEGABYTE // 4)

    assert find_batch_size(try_step, memory_limit=(memory.resident() or 0) + 200 * MEGABYTE) == 5


@pytest.mark.usefixtures("quick")
def test_a_memory_limit_below_the_memory_in_use_is_reported() -> None:
    with pytest.raises(RuntimeError, match=r"a batch of 1 would need about .* GB of 0.00 GB"):
        find_batch_size(FakeStep(4), memory_limit=1000)


def test_what_every_step_takes_is_not_taken_for_the_memory_of_an_image() -> None:
    free_memory()
    tried: list[int] = []

    def try_step(size: int) -> None:
        tried.append(size)
        torch.ones((100 + size * 10) * MEGABYTE // 4)  # gradients and the like, which are given back here

    found = find_batch_size(try_step, memory_limit=(memory.resident() or 0) + 200 * MEGABYTE)
    assert 8 <= found <= 10
    assert tried[:3] == [2, 3, 4]
    assert max(tried) <= 10


def test_a_size_that_was_tried_to_predict_the_next_is_not_tried_again() -> None:
    free_memory()
    tried: list[int] = []

    def try_step(size: int) -> None:
        tried.append(size)
        torch.ones(size * 100 * MEGABYTE // 4)

    assert find_batch_size(try_step, memory_limit=(memory.resident() or 0) + 360 * MEGABYTE) == 3
    assert tried == [2, 3]
