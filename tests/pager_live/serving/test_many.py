"""One pager, many mappings, many threads: everybody gets on, by counts and not by times."""

from __future__ import annotations

from pathlib import Path

from helpers import child

SCENES = "pager_live.serving.scenes_many:"


def run(scene: str, *arguments: object) -> dict[str, object]:
    found: dict[str, object] = child.finish(child.start(SCENES + scene, *arguments), 100)
    return found


def test_64_mappings_and_16_threads_get_on_while_one_mapping_streams(image: Path) -> None:
    found = run("beside_a_stream", str(image), 64, 12)
    assert found["right"] == 63
    assert found["copied"] == [12] * 63  # 16 threads on each page cost one copy
    assert found["streamed"] > 0  # type: ignore[operator]
    assert found["unfinished"]


def test_a_mapping_is_completed_while_faults_in_another_never_cease(image: Path) -> None:
    found = run("completed_beside_faults", str(image))
    assert found["right"]
    assert found["faults"] > 0  # type: ignore[operator]


def test_reads_of_all_mappings_together_keep_to_the_limit(tmp_path: Path) -> None:
    found = run("reads_in_flight", str(tmp_path), 3, 8, 6)
    assert found["right"] == 8
    assert found["fetches"] == [6] * 8  # 16 threads on each page cost one read
    assert found["most"] == 3
    assert found["most_seen"] in (2, 3)  # several at once, and never more than there are places


def test_sources_that_hang_leave_a_place_for_others(tmp_path: Path) -> None:
    found = run("beside_sources_that_hang", str(tmp_path / "gate"), 8)
    assert found["right"] == [True, True]
    assert found["hang_still"] == 8
    assert found["right_at_last"] == [True] * 2
