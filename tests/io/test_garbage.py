import gc

from finetune.io.garbage import no_collection


def test_nothing_is_collected_inside_and_everything_is_old_afterwards():
    gc.collect()
    with no_collection():
        assert not gc.isenabled()
        made = [[] for _ in range(10_000)]
        assert gc.get_count()[0] >= len(made)
    assert gc.isenabled()
    assert gc.get_count()[0] < len(made)
    assert gc.get_freeze_count() == 0


def test_what_is_frozen_stays_frozen_and_a_collector_that_is_off_stays_off():
    gc.freeze()
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
        gc.enable()
        with no_collection():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()
