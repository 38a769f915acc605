"""Mutation testing by name: draw mutants of the code, and see which tests notice.

    pip install cosmic-ray
    python benchmarks/mutants.py --sample 300 --results mutants.jsonl

cosmic-ray mutates one operator, number or condition at a time.  Each mutant runs in a fork against
the tests of its module, which stop at the first failure.  A second call goes on where the first
stopped.  Mutants of annotations and of csc/compiled, which numba would compile again for each, are
left out.
"""

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# Modules whose laws are in the test files of others; the rest have one of their own name.
TESTS = {
    "csc/acceleration.py": ["csc/solvers/test_fista.py", "csc/learning/test_surrogate.py"],
    "csc/checks.py": [
        "csc/test_conv.py", "csc/test_prox.py", "csc/test_dictionary.py", "csc/test_bounds.py",
        "csc/solvers/test_ista.py",
    ],
    "csc/learning/sporco.py": ["csc/learning/test_learn.py", "baselines/sparse/test_csc_sr.py"],
    "csc/learning/state.py": ["csc/learning/test_learn.py"],
    "csc/precision.py": ["csc/solvers/test_ista.py"],
    "csc/problem.py": [
        "csc/test_bounds.py", "csc/solvers/test_stopping.py", "csc/solvers/test_ista.py",
    ],
    "csc/recursion/kernel.py": [
        "csc/recursion/test_spectrum.py", "csc/recursion/test_settling.py",
        "csc/recursion/test_distance.py",
    ],
    "csc/solution.py": ["csc/solvers/test_stopping.py"],
    "csc/solvers/active_set.py": ["csc/solvers/test_cd.py", "csc/solvers/test_stopping.py"],
    "csc/solvers/cd.py": ["csc/solvers/test_cd.py", "csc/solvers/test_stopping.py"],
    "csc/solvers/fista.py": ["csc/solvers/test_fista.py", "csc/solvers/test_stopping.py"],
    "csc/solvers/ista.py": ["csc/solvers/test_ista.py"],
    "csc/solvers/admm.py": [
        "csc/solvers/test_admm.py", "csc/solvers/test_stopping.py", "csc/solvers/test_ista.py",
    ],
    "csc/solvers/steps.py": ["csc/solvers/test_fista.py"],
    "csc/solvers/stopping.py": ["csc/solvers/test_stopping.py", "csc/solvers/test_ista.py"],
}  # fmt: skip
FAMILIES = {
    "ReplaceBinaryOperator": ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"),
    "ReplaceComparisonOperator": ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"),
}
"""The operators of cosmic-ray that are replaced by one another; the others would not run."""


def main() -> None:
    """Draw the mutants, run those without a result, and print the score."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    p.add_argument("--sample", type=int, default=300, help="number of mutants (default: 300)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--results", type=Path, required=True, help="file of results, one a line")
    p.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    p.add_argument("--examples", type=int, default=30, help="of each Hypothesis test")
    p.add_argument("--retry", action="store_true", help="run the survivors again")
    a = p.parse_args()
    end = time.monotonic() + a.seconds
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    drawn = sample(a.sample, a.seed)
    results = read(a.results)
    sound: set[str] = set()  # modules whose tests pass without a mutant
    _import_what_all_tests_need()
    for path, operator, occurrence, line in drawn:
        key = f"{path}:{line} {operator} {occurrence}"
        if key in results and not (a.retry and results[key] == "survived"):
            continue
        if time.monotonic() > end:
            break
        if path not in sound:
            sound.add(path)
            if run(path, Path(path).read_text(), a.examples) != "survived":
                sys.exit(f"the tests of {path} fail without a mutant: {' '.join(tests_of(path))}")
        results[key] = run(path, mutate(path, operator, occurrence), a.examples)
        with a.results.open("a") as file:
            file.write(json.dumps([key, results[key]]) + "\n")
    report(results, len(drawn))


def read(path: Path) -> dict[str, str]:
    """Return the last result of each mutant."""
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(json.loads(line) for line in lines)


def report(results: dict[str, str], total: int) -> None:
    """Print the numbers by outcome, and the survivors."""
    print(f"{len(results)} of {total} mutants:", dict(Counter(results.values())))
    for key, result in sorted(results.items()):
        if result == "survived":
            print("survived:", key)


def sample(n: int, seed: int) -> list[tuple[str, str, int, int]]:
    """Return n mutants, drawn place by place, as (file, operator, occurrence, line)."""
    g = random.Random(seed)  # noqa: S311
    places: dict[tuple[str, str, int, int], list[tuple[str, str, int, int]]] = defaultdict(list)
    for path in modules():
        for operator, occurrence, line, column in mutations(path):
            family = operator.rsplit("/")[1].split("_")[0]
            places[path, family, line, column].append((path, operator, occurrence, line))
    drawn = (g.choice(places[place]) for place in g.sample(sorted(places), len(places)))
    kept = (one for one in drawn if _changes_code(one[0], mutate(*one[:3])))
    return [one for one, _ in zip(kept, range(n), strict=False)]


def modules() -> list[str]:
    """Return the files that are mutated."""
    files = [*Path("csc").rglob("*.py"), *Path("crnet/measuring").rglob("*.py")]
    return sorted(str(f) for f in files if "compiled" not in f.parts and f.name != "__init__.py")


def mutations(path: str) -> Iterator[tuple[str, int, int, int]]:
    """Return operator, occurrence, line and column of each mutation of a file."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast_from_path(Path(path))))
    for name in operator_names():
        family, *change = name.split("/")[1].split("_")
        allowed = FAMILIES.get(family)
        if family.startswith("Variable") or (allowed and not set(change) <= set(allowed)):
            continue
        positions = [at for node in nodes for at in get_operator(name)().mutation_positions(node)]
        for occurrence, ((line, column), _) in enumerate(positions):
            yield name, occurrence, line, column


def mutate(path: str, operator: str, occurrence: int) -> str:
    """Return the source of a mutant."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return str(mutate_code(Path(path).read_text(), get_operator(operator)(), occurrence))


def _changes_code(path: str, mutant: str) -> bool:
    """Tell whether a mutant is Python and differs in more than annotations."""
    trees = []
    for source in (Path(path).read_text(), mutant):
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a star before keyword arguments is not a product
            return False
        for node in ast.walk(tree):
            for name in ("annotation", "returns"):
                if getattr(node, name, None) is not None:
                    setattr(node, name, ast.Constant(0))
        trees.append(ast.dump(tree))
    return trees[0] != trees[1]


def tests_of(path: str) -> list[str]:
    """Return the test files of a module, and the module for its docstring's examples."""
    own = Path("tests", path).with_name(f"test_{Path(path).name}")
    files = [f"tests/{name}" for name in TESTS.get(path, [])] or [str(own)]
    return [path, *files]


def run(path: str, source: str, examples: int, limit: float = 600) -> str:
    """Return whether the tests of a module notice a mutant: killed, timeout or survived."""
    child = os.fork()
    if child == 0:
        os._exit(_test(path, source, examples))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _test(path: str, source: str, examples: int) -> int:
    import pytest
    from hypothesis import Phase, settings

    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    mutant = _Mutant(path, source)
    sys.meta_path.insert(0, mutant)
    try:
        importlib.import_module(mutant.name)  # now: pytest would read examples from the file
    except Exception:
        return 1
    phases = (Phase.explicit, Phase.generate)  # a failure need not be explained
    settings.register_profile(
        "mutant", deadline=None, max_examples=examples, derandomize=True, phases=phases
    )
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "mutant"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported already
    return int(pytest.main([*options, *tests_of(path)]))


class _Mutant(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module from another source."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = str(Path(path).resolve()), source
        self.name = path.removesuffix(".py").replace("/", ".")

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> "importlib.machinery.ModuleSpec | None":
        """Return the mutant for the name of its module."""
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_filename(self, fullname: str) -> str:
        """Return the path of the module."""
        return self.path

    def get_data(self, path: "str | bytes") -> bytes:
        """Return the source of the mutant."""
        return self.source.encode()

    def path_stats(self, path: "str | bytes") -> dict[str, float]:
        """Refuse to be cached."""
        raise OSError


def _import_what_all_tests_need() -> None:
    """Import other libraries once, before the forks; ours are imported in each."""
    for name in ("torch", "numba", "sklearn.linear_model", "hypothesis", "pytest", "PIL.Image"):
        importlib.import_module(name)


if __name__ == "__main__":
    main()
