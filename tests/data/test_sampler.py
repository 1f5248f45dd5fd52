import pytest
import torch
from torch.utils.data import BatchSampler

from finetune.data.sampler import EvaluationSampler, TrainSampler


def indices(sampler: TrainSampler) -> list[int]:
    return [key.index for key in sampler]


def test_order_is_a_function_of_seed_and_epoch():
    sampler, again = TrainSampler(50, seed=1), TrainSampler(50, seed=1)
    again.set_epoch(3)
    list(again)
    again.set_epoch(0)
    assert list(sampler) == list(again)
    assert indices(sampler) != list(range(50))
    assert sorted(indices(sampler)) == list(range(50))
    sampler.set_epoch(1)
    assert indices(sampler) != indices(again)
    assert indices(sampler) != indices(TrainSampler(50, seed=2))
    assert {key.epoch for key in sampler} == {1}


def test_neighboring_seeds_and_epochs_do_not_share_an_order():
    shifted = TrainSampler(50, seed=0)
    shifted.set_epoch(1)
    assert indices(shifted) != indices(TrainSampler(50, seed=1))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_batches_of_all_ranks_together_are_those_of_one_rank(world_size):
    share = 2
    one = indices(TrainSampler(29, seed=5))
    ranks = [indices(TrainSampler(29, 5, rank, world_size)) for rank in range(world_size)]
    assert {len(rank) for rank in ranks} == {29 // world_size}
    whole = share * world_size
    for batch in range(29 // whole):
        together = {i for rank in ranks for i in rank[batch * share : (batch + 1) * share]}
        assert together == set(one[batch * whole : (batch + 1) * whole])
    assert len({i for rank in ranks for i in rank}) == 29 // world_size * world_size


def test_an_epoch_may_have_each_image_several_times():
    keys = list(TrainSampler(5, seed=1, repeats=3))
    assert sorted((key.index, key.repetition) for key in keys) == [(i, k) for i in range(5) for k in range(3)]
    assert [key.index for key in keys] != sorted(key.index for key in keys)
    weighted = list(TrainSampler(2, weights=[1.0, 3.0], repeats=4))
    assert sorted((key.index, key.repetition) for key in weighted) == [(0, 0), (0, 1)] + [(1, k) for k in range(6)]


def test_start_skips_once():
    sampler = TrainSampler(10, rank=1, world_size=2)
    full = list(sampler)
    sampler.start = 3
    assert len(sampler) == 5
    iter(sampler)  # not begun, so nothing is used up
    assert list(sampler) == full[3:]
    assert list(sampler) == full


@pytest.mark.parametrize(("length", "world_size"), [(10, 1), (10, 3), (2, 4)])
def test_evaluation_shards_hold_every_sample_once(length, world_size):
    shards = [list(EvaluationSampler(length, rank, world_size)) for rank in range(world_size)]
    assert sorted(i for shard in shards for i in shard) == list(range(length))
    assert [len(EvaluationSampler(length, rank, world_size)) for rank in range(world_size)] == [len(s) for s in shards]


@pytest.mark.parametrize(("length", "batch_size", "world_size"), [(9, 4, 2), (8, 2, 3), (10, 3, 4), (5, 8, 2)])
def test_ranks_evaluate_the_batches_of_one_process(length, batch_size, world_size):
    ranks = []
    for rank in range(world_size):
        sampler = EvaluationSampler(length, rank, world_size, batch_size)
        ranks.append(list(BatchSampler(sampler, batch_size, drop_last=False)))
    alone = list(BatchSampler(range(length), batch_size, drop_last=False))
    assert ranks == [alone[rank::world_size] for rank in range(world_size)]


def test_wrong_ranks_and_too_few_images_are_errors():
    with pytest.raises(ValueError, match="rank=2 with world_size=2"):
        EvaluationSampler(4, 2, 2)
    with pytest.raises(ValueError, match="2 training images, 1 times each, for 3 processes"):
        TrainSampler(2, world_size=3)


def test_weights_say_how_often_a_sample_comes_in_the_mean_over_epochs():
    weights = [0.0, 1.0, 1.0, 2.5, 0.5]
    sampler = TrainSampler(5, seed=3, weights=weights)
    counts = torch.zeros(5)
    for epoch in range(400):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(keys) == len(set(keys)) == 5
        of_epoch = torch.bincount(torch.tensor([key.index for key in keys]), minlength=5)
        assert ((of_epoch - torch.tensor(weights)).abs() < 1).all()  # rounded down or up
        repetitions = sorted(key.repetition for key in keys if key.index == 3)
        assert repetitions == list(range(int(of_epoch[3])))
        counts += of_epoch
    assert torch.allclose(counts / 400, torch.tensor(weights), atol=0.06)


def test_ranks_share_a_weighted_epoch():
    whole = list(TrainSampler(8, seed=1, weights=[1, 2, 3, 4, 1, 1, 1, 1]))
    shards = [list(TrainSampler(8, 1, rank, 2, weights=[1, 2, 3, 4, 1, 1, 1, 1])) for rank in range(2)]
    assert [key for pair in zip(*shards, strict=True) for key in pair] == whole


def test_equal_weights_change_nothing_but_the_draw():
    sampler = TrainSampler(30, seed=2, weights=[3.0] * 30)
    assert sorted(key.index for key in sampler) == list(range(30))
    with pytest.raises(ValueError, match="the weights of all training images are 0"):
        TrainSampler(3, weights=[0, 0, 0])
