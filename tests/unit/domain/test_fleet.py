import pytest

from arcentra_server.domain.definition import GitSource, JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.fleet import (
    MOST_SELECTORS,
    NO_AGENT,
    AgentLabels,
    fleet_warnings,
    in_words,
    unserved,
    unserved_selectors,
)
from arcentra_server.domain.labels import LabelSet, in_force
from arcentra_server.domain.selectors import Operator, Selector, Term

LINUX = Term("os", Operator.IN, ("linux",))
ARM = Term("arch", Operator.IN, ("arm64",))
FLEET = [
    AgentLabels("a1", LabelSet({"os": "linux", "arch": "amd64"})),
    AgentLabels("a2", LabelSet({"os": "darwin", "arch": "amd64"})),
]


def spec_of(*jobs: JobSpec) -> PipelineSpec:
    return PipelineSpec((StageSpec("default", jobs),), jobs_only=True)


def job(name: str, *terms: Term, step: Selector | None = None, source: GitSource | None = None) -> JobSpec:
    return JobSpec(name, (StepSpec("s", "shell", selector=step),), selector=Selector(terms), source=source)


def test_the_nearest_agent_and_what_it_lacks_are_named() -> None:
    message = "no registered agent can serve this job: nearest is `a1`, which lacks arch=arm64"
    spec = spec_of(job("a", LINUX), job("b"), job("c", LINUX, ARM), job("d", ARM, LINUX))
    assert fleet_warnings(spec, FLEET) == [
        Fault("jobs[2].agent_selector", message),
        Fault("jobs[3].agent_selector", message),
    ]


def test_a_step_with_a_selector_of_its_own_is_looked_at_by_itself() -> None:
    arm = Selector((ARM,))
    message = "no registered agent can serve this step: nearest is `a1`, which lacks arch=arm64"
    assert fleet_warnings(spec_of(job("a", LINUX, step=arm)), FLEET) == [
        Fault("jobs[0].steps[0].agent_selector", message)
    ]
    # Nothing of this job runs on an agent of the job, which there is none of; of the next its source does.
    linux = Selector((LINUX,))
    assert fleet_warnings(spec_of(job("a", ARM, step=linux)), FLEET) == []
    with_source = spec_of(job("a", ARM, step=linux, source=GitSource("r")))
    assert [fault.path for fault in fleet_warnings(with_source, FLEET)] == ["jobs[0].agent_selector"]


def test_without_agents_one_warning_says_all() -> None:
    assert fleet_warnings(spec_of(job("a", LINUX), job("b", ARM)), []) == [Fault("", NO_AGENT)]
    assert unserved(Selector((LINUX,)), []) == NO_AGENT


def test_of_agents_that_are_as_near_the_first_by_name_is_named() -> None:
    fleet = [AgentLabels("z", LabelSet({})), AgentLabels("m", LabelSet({}))]
    assert unserved(Selector((ARM,)), fleet) == "nearest is `m`, which lacks arch=arm64"


def test_an_agent_that_is_reserved_serves_only_what_asks_for_it() -> None:
    fleet = [AgentLabels("gpu", in_force({"!gpu": "nvidia", "os": "linux"}, {}))]
    assert unserved(Selector((LINUX,)), fleet) == "nearest is `gpu`, which is reserved for what asks for the label gpu"
    both = "nearest is `gpu`, which lacks arch=arm64 and is reserved for what asks for the label gpu"
    assert unserved(Selector((ARM,)), fleet) == both
    assert unserved(Selector((Term("gpu", Operator.EXISTS),)), fleet) is None


def test_what_nobody_serves_is_found_without_words() -> None:
    spec = spec_of(job("a", LINUX), job("b"), job("c", LINUX, ARM), job("d", LINUX, ARM))
    found = unserved_selectors(spec, FLEET)
    assert found == {Selector((LINUX, ARM))}
    assert fleet_warnings(spec, FLEET, found) == fleet_warnings(spec, FLEET)
    assert fleet_warnings(spec, FLEET, ()) == []
    gpu = [AgentLabels("gpu", in_force({"!gpu": "nvidia", "os": "linux"}, {}))]
    assert unserved_selectors(spec_of(job("a", LINUX)), gpu) == {Selector((LINUX,))}
    many = spec_of(*[job(f"j{n}", Term("n", Operator.IN, (str(n),))) for n in range(MOST_SELECTORS + 5)])
    found = unserved_selectors(many, FLEET)
    assert found is not None
    assert len(found) == MOST_SELECTORS
    assert fleet_warnings(many, FLEET, found) == fleet_warnings(many, FLEET)


def test_what_takes_too_many_looks_is_not_told() -> None:
    # A look at each of the three selectors; one agent for that of `a`, two for that of `c`.
    spec = spec_of(job("a", LINUX), job("b", LINUX), job("c", ARM))
    assert unserved_selectors(spec, FLEET, most_looks=6) == {Selector((ARM,))}
    assert unserved_selectors(spec, FLEET, most_looks=5) is None
    assert unserved_selectors(spec_of(job("a", LINUX), job("b", LINUX)), [], most_looks=1) is None


def test_only_so_many_selectors_are_looked_at() -> None:
    jobs = [job(f"j{n}", Term("n", Operator.IN, (str(n),))) for n in range(MOST_SELECTORS + 5)]
    assert len(fleet_warnings(spec_of(*jobs), FLEET)) == MOST_SELECTORS


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Term("os", Operator.IN, ("a", "b")), "os in (a, b)"),
        (Term("os", Operator.NOT_IN, ("a", "b")), "os not in (a, b)"),
        (Term("gpu", Operator.EXISTS), "a label gpu"),
        (Term("gpu", Operator.NOT_EXISTS), "the absence of a label gpu"),
        (Term("cores", Operator.GT, ("4",)), "cores>4"),
        (Term("cores", Operator.LT, ("4",)), "cores<4"),
    ],
)
def test_conditions_are_put_into_words(term: Term, words: str) -> None:
    assert in_words(term) == words
