import time

from finetune.engine.command_line import command_line, command_started


def test_the_time_of_a_command_begins_with_it_and_that_of_a_call_in_python_now() -> None:
    before = time.monotonic()
    with command_line("train", []):
        started = command_started()
        time.sleep(0.01)
        assert before <= command_started() == started
    assert command_started() >= started + 0.01
