"""
Records in this process and in children of multiprocessing, which end by themselves: nobody calls flush or stop in them.

    multiprocess.py <start method> <process | executor> <client made before: yes | no>
"""

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from retainwise_metrics import get_metrics_client

CHILDREN = 3
RECORDS = 5


def work(number: int) -> int:
    """Record some values in a child; the last of them is the one that is easily lost."""
    client = get_metrics_client()
    handle = client.counter("Bound")
    for value in range(RECORDS):
        assert client.put_metric("M", value, dimensions={"Child": f"c{number}"})
        assert handle.inc()
    assert client.stats().recorded >= 2 * RECORDS
    return number


def main() -> None:
    """Record in the parent, before and beside the children."""
    method, way, made_before = sys.argv[1:]
    context = multiprocessing.get_context(method)
    client = None
    if made_before == "yes":
        client = get_metrics_client()
        client.put_metric("Parent", 1)
        assert client.flush(20.0)
        client.put_metric("Parent", 1)
    if way == "executor":
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            assert sorted(pool.map(work, range(CHILDREN))) == list(range(CHILDREN))
    else:
        children = [context.Process(target=work, args=(number,)) for number in range(CHILDREN)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * CHILDREN
    client = client or get_metrics_client()
    client.put_metric("Parent", 1)
    client.stop(20.0)
    json.dump(client.stats()[:4], sys.stdout)


if __name__ == "__main__":
    main()
