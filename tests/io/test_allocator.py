import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from finetune.io.allocator import keep_memory, return_memory
if "keep" in sys.argv:
    keep_memory()
faults = []
for size in (48, 47, 46, 45):
    filled = b"x" * (size * 1_000_000)
    del filled
    if "return" in sys.argv:
        return_memory()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_taken_again_without_a_page_fault_until_it_is_returned():
    def faults(*arguments: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, *arguments], check=True, capture_output=True).stdout)

    assert faults("keep") < 100
    assert faults() > 1000  # of 4 KB each
    assert faults("keep", "return") > 1000
