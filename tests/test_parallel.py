import threading

import numpy as np
from numba import prange

from obverse.parallel import kernel, set_threads


@kernel(parallel=True)
def total(values):
    out = np.zeros(values.shape[0], np.float32)
    for i in prange(values.shape[0]):
        out[i] = values[i] * np.float32(2)
    return out


def test_parallel_kernels_may_be_called_from_many_threads():
    values = np.arange(1000, dtype=np.float32)
    results = {}

    def work(key):
        for _ in range(20):
            results[key] = total(values)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[k], values * 2) for k in range(4))


def test_thread_count_is_held_between_one_and_what_there_is():
    assert set_threads(1) == 1
    most = set_threads(None)
    assert set_threads(10_000) == most >= 1
