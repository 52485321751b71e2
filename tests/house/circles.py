"""Print a circle of imports of the package `userfault` that Python finds: one module a line.

An import counts wherever it stands: at the top, in a function, for type checkers alone.  What is
imported is not run.
"""

from __future__ import annotations

import graphlib

import grimp


def circle() -> list[str]:
    """Modules, each of which imports the next, from one back to itself; empty if there is none."""
    graph = grimp.build_graph("userfault", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found[::-1]  # there a module comes before those that import it
    return []


if __name__ == "__main__":
    print(*circle(), sep="\n")
