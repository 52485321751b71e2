"""SysV segments of the model."""

from __future__ import annotations

from userfault.kernel.calls import PAGE, Read, Shmat, Shmget, ShmRemove, Write, place
from userfault.model.faces.calls import ModelCalls


def test_a_new_segment_takes_the_id_of_none_that_is_there() -> None:
    kernel = ModelCalls(checking=True)
    task = kernel.process().tasks[0]
    first, second = (task.call(Shmget(PAGE, 0)).result().value for _ in range(2))
    task.call(Shmat(second, place(0), 0)).result()
    task.call(Write(place(0), b"second")).result()
    task.call(ShmRemove(first)).result()
    third = task.call(Shmget(PAGE, 0)).result().value
    assert third not in (first, second)
    task.call(Shmat(second, place(1), 0)).result()
    assert task.call(Read(place(1), 6)).result().data == b"second"
    kernel.close()
