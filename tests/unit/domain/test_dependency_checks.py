import itertools

from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.definition import JobSpec
from arcentra_server.domain.dependency_checks import MOST_CIRCLES, check_dependencies
from arcentra_server.domain.errors import Fault


def check(needs: dict[str, list[str]], elsewhere: dict[str, str] | None = None) -> list[Fault]:
    jobs = [
        (f"jobs[{index}]", JobSpec(name, (), depends_on=tuple(of))) for index, (name, of) in enumerate(needs.items())
    ]
    return check_dependencies(jobs, {**dict.fromkeys(needs, "build"), **(elsewhere or {})}, "build")


def test_a_diamond_is_no_fault() -> None:
    assert check({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}) == []


def test_each_name_is_checked() -> None:
    assert check({"a": ["a", "x", "b", "b", "z"], "b": []}, {"z": "deploy"}) == [
        Fault("jobs[0].depends_on[3]", "'b' is given twice, first in jobs[0].depends_on[2]"),
        Fault("jobs[0].depends_on[0]", "job 'a' cannot depend on itself"),
        Fault("jobs[0].depends_on[1]", "there is no job 'x' in stage 'build'"),
        Fault("jobs[0].depends_on[4]", "job 'z' is in stage 'deploy': stages follow on each other as they are written"),
    ]


def test_a_circle_is_named_from_its_first_job_on() -> None:
    assert check({"free": [], "in": ["c"], "b": ["a"], "c": ["b", "free"], "a": ["c"]}) == [
        Fault("jobs[2].depends_on[0]", "jobs wait for each other: b -> a -> c -> b")
    ]


def test_circles_are_named_apart_and_not_without_end() -> None:
    pairs = {f"{side}{n}": [f"{'b' if side == 'a' else 'a'}{n}"] for n in range(30) for side in "ab"}
    faults = check(pairs)
    assert len(faults) == MOST_CIRCLES
    assert faults[1].message == "jobs wait for each other: a1 -> b1 -> a1"


NAMES = [f"j{n}" for n in range(8)]
GRAPHS = st.fixed_dictionaries({name: st.lists(st.sampled_from(NAMES), unique=True, max_size=3) for name in NAMES})


def is_circular(needs: dict[str, list[str]]) -> bool:
    """By the definition: some job is reached from itself, over others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        pending = [name for name in needs[start] if name != start]
        while pending:
            if (name := pending.pop()) not in seen:
                seen.add(name)
                pending += [other for other in needs[name] if other != name]
        return seen

    return any(name in reached(name) for name in needs)


@given(GRAPHS)
def test_there_is_a_fault_when_and_only_when_jobs_wait_for_each_other(needs: dict[str, list[str]]) -> None:
    circles = [fault for fault in check(needs) if "wait for each other" in fault.message]
    assert bool(circles) == is_circular(needs)
    for fault in circles:
        way = fault.message.removeprefix("jobs wait for each other: ").split(" -> ")
        assert way[0] == way[-1]
        assert all(later in needs[earlier] for earlier, later in itertools.pairwise(way))
