"""TriPosT: every rule of its trajectories, on small dialogues; and whole runs, killed and resumed."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest

from lai_ray.benchmarks.word_problems import BENCHMARK
from lai_ray.cli import run as cli_run
from lai_ray.common.chat_template import Example
from lai_ray.common.self_correction import ALL_RIGHT, RIGHT, Feedback, Trajectory, cleaned, read_feedback, split
from lai_ray.contracts import Model, StrategySettings
from lai_ray.errors import ConfigError, StageError
from lai_ray.instructor import trajectories
from lai_ray.instructor.prompts import corrections
from lai_ray.records import Answer, Attempt, Case, Completion, Grade, Problem, Reply, Sample, Turn
from lai_ray.strategies.tripost import STRATEGY, Settings
from lai_ray.training.objectives.self_correction import OBJECTIVE
from lai_ray.training.objectives.sft import OBJECTIVE as SFT
from tests.conftest import records
from tests.local import Crash, LocalExecutor, job

PROBLEM = Problem("word_problems/train/00001", "word_problems", "train", "Tom buys 2 pens for 30 dollars each with 90?",
                  "30", {"solution": "2 * 30 = 60\n90 - 60 = 30\n#### 30"})  # fmt: skip
GOLD = "2 * 30 = 60\n90 - 60 = 30\n#### 30"
FIRST_WRONG = "2 * 30 = 50\n90 - 50 = 40\n#### 40"
SECOND_WRONG = "2 * 30 = 60\n90 - 60 = 20\n#### 20"
FIRST = 'Step 1, "2 * 30 = 50", is wrong: 2 * 30 is not 50'
SECOND = 'Step 2, "90 - 60 = 20", is wrong: 90 - 60 is not 20'
CASE = Case(f"{PROBLEM.id}#0>tripost", "tripost",
            Attempt(f"{PROBLEM.id}#0", PROBLEM, [], Completion("", "stop"), Grade(0, None, "r", "graded")))  # fmt: skip
TOLD = "Error step: {}\nQuoted part: {}\nReason: it is worked out wrongly"


def settings(**own) -> StrategySettings:
    model = Model("", "encoder")
    return StrategySettings(0, 0, 4, 2, model, count_cut_off=False, show_reference=False, own=Settings(**own))


class Dialogue:
    """One dialogue with these completions, in order: its requests, and its samples."""

    def __init__(self, *said: str | Completion, benchmark=BENCHMARK, **own) -> None:
        self.asks, replies, how = [], [], settings(**own)
        waiting = iter(said)
        while (ask := STRATEGY.next(CASE, replies, benchmark, how)) is not None:
            self.asks.append(ask)
            text = next(waiting)
            done = text if isinstance(text, Completion) else Completion(text, "stop")
            replies.append(Reply(f"{CASE.id}@{len(replies)}.0", CASE.id, len(replies), 0, ask.messages, done, ask.to))
        assert not list(waiting), "replies that nothing asked for"
        self.samples = STRATEGY.samples(CASE, replies, benchmark, how)

    @property
    def to(self) -> list[str]:
        return [ask.to for ask in self.asks]

    @property
    def learned(self) -> dict[str, str]:
        """By the kind of the sample, its whole text."""
        return {s.id.rpartition("/")[2]: "".join(t.text for t in s.turns) for s in self.samples if s.dropped is None}

    @property
    def dropped(self) -> list[str]:
        return [sample.dropped for sample in self.samples if sample.dropped]


def by_instructor(*said: str | Completion, **own) -> Dialogue:
    return Dialogue(*said, feedback="instructor", **own)


def joined(*parts: str) -> str:
    """attempt, feedback, attempt, … as one text."""
    whole = parts[0]
    for i, part in enumerate(parts[1:]):
        whole += f"\nUpdated answer:\n{part}" if i % 2 else f"\nFeedback: {part}"
    return whole


# The text of a trajectory


def test_a_trajectory_is_split_into_attempts_and_feedback_and_goes_on_after_an_updated_answer():
    assert split(GOLD) == Trajectory([GOLD], [])
    whole = split(joined(FIRST_WRONG, FIRST, SECOND_WRONG, SECOND, GOLD))
    assert whole == Trajectory([FIRST_WRONG, SECOND_WRONG, GOLD], [FIRST, SECOND])
    assert whole.goes_on and not split(GOLD).goes_on
    assert not split(joined(FIRST_WRONG, FIRST, GOLD, ALL_RIGHT)).goes_on


@pytest.mark.parametrize("text", ["", "Step 1 is wrong", 'Step x, "a", is wrong: b', 'Step 0, "a", is wrong: b',
                                  'Step 1, "a", is wrong: b\nmore', 'Step 9999, "a", is wrong: b'])  # fmt: skip
def test_other_texts_are_no_feedback(text):
    assert read_feedback(text) is None


def test_feedback_is_read_as_it_is_written():
    for feedback in (RIGHT, Feedback(2, '90 "-" 60', "no, is wrong: really"), Feedback(1, "", "missing")):
        assert read_feedback(f" {feedback} ") == feedback


def test_repeated_steps_are_dropped_and_a_new_question_ends_an_attempt():
    assert cleaned("(1) 2 + 2 = 4\n\n(1) 2 + 2 = 4\n(2) 2 + 2 = 4\n#### 4\nQuestion: 3?\n#### 3") == (
        "(1) 2 + 2 = 4\n(2) 2 + 2 = 4\n#### 4"
    )
    assert cleaned("2 + 2 = 4\n2 + 2 = 4") == "2 + 2 = 4\n2 + 2 = 4", "without numbers, equal steps may follow"


# Attempts


def test_the_attempt_is_the_targets_own_sampled_at_temperature_1():
    (ask,) = Dialogue(GOLD).asks
    assert (ask.to, ask.temperature, ask.messages) == ("target", 1.0, BENCHMARK.prompt(PROBLEM))


def test_a_right_attempt_gets_scripted_feedback_and_no_call():
    done = by_instructor(GOLD)
    assert done.to == ["target"]
    assert done.learned == {"right": joined(GOLD, ALL_RIGHT), "gold": joined(GOLD, ALL_RIGHT)}


def test_a_final_answer_that_does_not_follow_from_the_last_step_is_not_accepted():
    assert trajectories.is_right(BENCHMARK, PROBLEM, GOLD)
    inconsistent = "2 * 30 = 50\n90 - 50 = 40\n#### 30"
    assert not trajectories.is_right(BENCHMARK, PROBLEM, inconsistent)
    assert trajectories.is_right(BENCHMARK, PROBLEM, "#### 30"), "no step that it could contradict"
    assert set(Dialogue(inconsistent).learned) == {"improvement.0", "right", "gold"}


def test_the_scripts_feedback_and_improvement_cost_no_call():
    done = Dialogue(SECOND_WRONG)
    assert done.to == ["target"]
    assert done.learned["improvement.0"] == joined(SECOND_WRONG, SECOND, GOLD)
    assert done.learned["right"] == joined(GOLD, ALL_RIGHT)


def test_an_attempt_with_an_unknown_line_is_discarded():
    assert Dialogue(f"Let us see.\n{FIRST_WRONG}").dropped == ["the feedback on a wrong attempt cannot be read"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "an attempt is empty"),
        ("word " * 513, "an attempt is too long"),
        (Completion(GOLD, "length"), "a reply is cut off"),
        (Completion("", "error", error="the engine died"), "a call failed"),
    ],
)
def test_attempts_that_cannot_be_used_are_dropped_with_the_reason(said, reason):
    done = Dialogue(said)
    assert (done.dropped, done.learned) == ([reason], {})


# Feedback and improvement by the instructor


def test_the_instructor_is_asked_for_feedback_greedily_and_for_an_improvement_without_the_gold_answer():
    done = by_instructor(FIRST_WRONG, TOLD.format(1, "2 * 30 = 50"), GOLD)
    assert done.to == ["target", "instructor", "instructor"]
    assert [ask.temperature for ask in done.asks[1:]] == [0.0, 0.7]
    assert not any("#### 30" in message["content"] for ask in done.asks[1:] for message in ask.messages)
    told = 'Step 1, "2 * 30 = 50", is wrong: it is worked out wrongly'
    assert done.learned["improvement.0"] == joined(FIRST_WRONG, told, GOLD)


def test_the_request_for_an_improvement_begins_with_the_steps_before_the_wrong_one():
    done = by_instructor(SECOND_WRONG, TOLD.format(2, "90 - 60 = 20"), GOLD)
    asked = done.asks[2].messages[1]["content"]
    assert "[BEGIN WITH THESE STEPS, UNCHANGED]\n2 * 30 = 60\n\n" in asked


@pytest.mark.parametrize("reply", ["It is wrong.", "Error step: 1\nReason: r", TOLD.format("two", "x"),
                                   TOLD.format(0, "x"), TOLD.format(1, "")])  # fmt: skip
def test_unreadable_feedback_drops_the_whole_trajectory(reply):
    assert corrections.read_reply(reply) is None
    assert by_instructor(FIRST_WRONG, reply).dropped == ["the feedback on a wrong attempt cannot be read"]


@pytest.mark.parametrize(
    ("updated", "reason"),
    [
        ("2 * 30 = 60\n90 - 60 = 30", "the updated answer has no final answer"),
        ("30 * 2 = 60\n90 - 60 = 30\n#### 30", "the updated answer changes steps that were right"),
        ("2 * 30 = 60\n90 - 60 = 20\n#### 30", "the updated answer keeps the wrong step"),
        ("2 * 30 = 60\n90 - 60 = 20 dollars\n#### 30", "the updated answer keeps the wrong part"),
        ("I am not sure.", "the updated answer has no final answer"),
    ],
)
def test_an_improvement_is_accepted_only_by_the_rules(updated, reason):
    done = by_instructor(SECOND_WRONG, TOLD.format(2, "90 - 60 = 20"), updated)
    assert (done.dropped, done.learned) == ([reason], {})


def test_a_last_step_that_was_left_out_is_not_an_improvement():
    at = Feedback(3, "#### 20", "")
    assert trajectories.refused(BENCHMARK, PROBLEM, SECOND_WRONG, at, "2 * 30 = 60\n#### 60") is not None


def test_an_updated_answer_gets_feedback_again_and_at_most_five_updates():
    wrong = [f"2 * 30 = {n}\n90 - {n} = {90 - n}\n#### {90 - n}" for n in range(40, 47)]
    fed = [TOLD.format(1, f"2 * 30 = {n}") for n in range(40, 47)]
    said = [wrong[0], fed[0], *itertools.chain(*zip(wrong[1:6], fed[1:6], strict=True))]
    done = by_instructor(*said)
    assert done.dropped == ["not right after 5 updates"]
    assert done.to == ["target", *["instructor"] * 11], "six feedbacks, five updates"
    healed = by_instructor(*said[:-2], GOLD)
    assert set(healed.learned) == {*(f"improvement.{i}" for i in range(5)), "right", "gold"}
    assert by_instructor(*said[:4], max_updates=1).dropped == ["not right after 1 updates"]


def test_progress_is_a_later_step_or_another_part():
    same = Feedback(2, "x", "")
    assert trajectories.stalls([same, same, RIGHT])
    assert trajectories.stalls([same, Feedback(1, "y", ""), RIGHT])
    assert not trajectories.stalls([same, Feedback(2, "y", ""), RIGHT])
    assert not trajectories.stalls([same, Feedback(3, "x", ""), RIGHT])


def test_without_progress_only_the_first_attempt_and_its_feedback_are_learned():
    misled = "2 * 30 = 45\n90 - 45 = 45\n#### 45"
    told = [TOLD.format(2, "45 = 45"), TOLD.format(1, "2 * 30 = 45")]
    stalled = by_instructor(misled, told[0], "2 * 30 = 45\n90 - 45 = 50\n#### 50", told[1], GOLD)
    assert set(stalled.learned) == {"improvement.0", "gold"}
    first = 'Step 2, "45 = 45", is wrong: it is worked out wrongly'
    assert stalled.learned["improvement.0"] == joined(misled, first)
    third = "2 * 30 = 60\n90 - 60 = 10\n#### 10"
    went_on = by_instructor(SECOND_WRONG, TOLD.format(2, "20"), third, TOLD.format(2, "90 - 60 = 10"), GOLD)
    assert set(went_on.learned) == {"improvement.0", "improvement.1", "right", "gold"}


# The target's own trajectories


def test_a_trajectory_of_its_own_that_ends_right_is_kept_as_it_is():
    done = by_instructor(joined(FIRST_WRONG, FIRST, GOLD, ALL_RIGHT))
    assert done.to == ["target"]
    assert done.learned["improvement.0"] == joined(FIRST_WRONG, FIRST, GOLD)


def test_a_right_end_does_not_keep_feedback_that_cannot_be_read_or_calls_a_wrong_attempt_right():
    for false in ("Hm.", ALL_RIGHT):
        done = Dialogue(joined(FIRST_WRONG, false, GOLD, ALL_RIGHT))
        assert done.learned["improvement.0"] == joined(FIRST_WRONG, FIRST, GOLD)


@pytest.mark.parametrize(
    ("own", "edited"),
    [
        ("It is wrong.", True),
        (ALL_RIGHT, True),
        (SECOND, True),
        ('Step 1, "3 * 30", is wrong: no', True),
        ('Step 1, "30 = 50", is wrong: no', False),
        ('Step 1, "so 2 * 30 = 50 it is", is wrong: no', False),
    ],
)
def test_the_edit_point_is_the_first_feedback_that_is_invalid_of_another_step_or_of_another_part(own, edited):
    done = Dialogue(joined(FIRST_WRONG, own, SECOND_WRONG, ALL_RIGHT))
    first = done.learned["improvement.0"]
    assert first == (joined(FIRST_WRONG, FIRST, GOLD) if edited else joined(FIRST_WRONG, own, SECOND_WRONG))
    assert ("improvement.1" in done.learned) == (not edited), "what is not edited goes before what is"


def test_no_feedback_is_asked_for_attempts_after_the_edit_point():
    done = by_instructor(
        joined(FIRST_WRONG, "Hm.", SECOND_WRONG, "Hm.", FIRST_WRONG, ALL_RIGHT), TOLD.format(1, "2 * 30 = 50"), GOLD
    )
    assert done.to == ["target", "instructor", "instructor"]


def test_an_attempt_without_feedback_counts_as_called_right():
    assert trajectories.disagree(RIGHT, Feedback(1, "x", ""))
    assert Dialogue(FIRST_WRONG).learned["improvement.0"] == joined(FIRST_WRONG, FIRST, GOLD)


def test_a_target_that_ends_with_an_updated_answer_goes_on_from_its_latest_attempt_alone_twice_at_most():
    once = Dialogue(joined(FIRST_WRONG, FIRST, SECOND_WRONG), f" {SECOND}\nUpdated answer:\n{GOLD}", f" {ALL_RIGHT}")
    assert [ask.messages[-1] for ask in once.asks[1:]] == [
        {"role": "assistant", "content": f"{SECOND_WRONG}\nFeedback:"},
        {"role": "assistant", "content": f"{GOLD}\nFeedback:"},
    ]
    assert all(ask.messages[:-1] == BENCHMARK.prompt(PROBLEM) for ask in once.asks[1:])
    assert once.learned["improvement.1"] == joined(SECOND_WRONG, SECOND, GOLD)
    again = f" {SECOND}\nUpdated answer:\n{SECOND_WRONG}"
    assert Dialogue(joined(FIRST_WRONG, FIRST, SECOND_WRONG), again, again).to == ["target"] * 3
    assert Dialogue(joined(FIRST_WRONG, FIRST, SECOND_WRONG), continuations=0).to == ["target"]


def test_at_most_so_many_turns_the_last_ones_are_learned():
    whole = joined(FIRST_WRONG, FIRST, SECOND_WRONG, SECOND, GOLD, ALL_RIGHT)
    assert set(Dialogue(whole).learned) == {"improvement.0", "improvement.1", "right", "gold"}
    assert set(Dialogue(whole, max_turns=1).learned) == {"improvement.1", "right", "gold"}


# Balancing


@pytest.mark.parametrize("seed", range(200))
def test_the_three_kinds_are_p_1_1_for_any_pool(seed):
    rng = Random(seed)
    counts = [rng.choice([0, 1, rng.randint(0, 40)]) for _ in range(3)]
    pools = [[f"{kind}{i}" for i in range(n)] for kind, n in zip("abc", counts, strict=True)]
    ratio, most = rng.choice([1.5, 1.0, 0.5, 3.0]), rng.choice([10_000, rng.randint(0, 60)])
    chosen = trajectories.balanced(*pools, ratio=ratio, most=most)
    a, b, c = ([one for one in chosen if one[0] == kind] for kind in "abc")
    for some, pool in zip((a, b, c), pools, strict=True):
        assert some == pool[: len(some)], "the first of each kind, in order"
    assert len(b) == min(math.ceil(Fraction(len(a)) / Fraction(ratio)), counts[1])
    assert len(c) == min(len(b), counts[2])
    assert len(chosen) <= most
    if most == 10_000:
        assert len(a) == counts[0], "all improvements"
    elif len(a) < counts[0]:
        more = len(a) + 1
        others = min(math.ceil(Fraction(more) / Fraction(ratio)), counts[1])
        assert more + others + min(others, counts[2]) > most, "no more would fit"
    assert chosen == trajectories.balanced(*pools, ratio=ratio, most=most)


def test_without_balancing_all_are_taken():
    assert sorted(trajectories.balanced("ab", "cdef", "g", ratio=-1, most=100)) == list("abcdefg")


def test_a_prefix_of_the_balanced_samples_has_about_the_same_shares():
    chosen = trajectories.balanced([("i", n) for n in range(30)], [("r", n) for n in range(50)],
                                   [("g", n) for n in range(50)], ratio=1.5, most=100)  # fmt: skip
    half = [kind for kind, _ in chosen[:35]]
    assert (half.count("i"), half.count("r"), half.count("g")) == (15, 10, 10)


def sample(kind: str, n: int) -> Sample:
    return Sample(f"{CASE.id}@0.{n}/{kind}", None, PROBLEM, [Turn("x")])


def test_too_few_samples_after_balancing_stop_the_run():
    pool = [sample("improvement.0", 0), sample("improvement.1", 1), *(sample("right", n) for n in range(9))]
    assert len(list(STRATEGY.choose(pool, 100, settings(min_samples=4)))) == 4
    with pytest.raises(StageError, match=r"4 samples.*improvement: 2, right: 9, gold: 0.*min_samples = 5"):
        STRATEGY.choose(pool, 100, settings(min_samples=5))


def test_references_that_no_attempt_came_to_are_taken_first():
    pool = [sample(kind, n) for n in range(3) for kind in ("improvement.0", "right", "gold")]
    pool.append(replace(sample("gold", 3), turns=[Turn("another")]))
    chosen = [s.id.partition("@0.")[2] for s in STRATEGY.choose(pool, 100, settings(ratio=1.0))]
    assert [name for name in chosen if name.endswith("gold")] == ["3/gold", "2/gold", "1/gold"]


@pytest.mark.parametrize("ratio", [0, -2, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_refused(tmp_path, ratio):
    with pytest.raises(ConfigError, match=r"strategy\.tripost.*ratio"):
        cli_run.run_job(tripost(tmp_path, strategy={"tripost": {"ratio": ratio}}), executor=LocalExecutor())


# The loss


def weights(objective, *turns: tuple[str, float]) -> list[tuple[str, float]]:
    """Text and weight of every piece of a response, neighbours of one weight together."""
    from lai_ray.common.chat_template import load_tokenizer
    from lai_ray.world import STUDENT

    tokenizer = load_tokenizer(STUDENT)
    tokens = objective.tokens(tokenizer, Example("e", [{"role": "user", "content": "How?"}], list(turns)), 512)
    pairs = itertools.groupby(zip(tokens.ids, tokens.weights, strict=True), key=lambda pair: pair[1])
    return [(tokenizer.decode([i for i, _ in some]), weight) for weight, some in pairs]


def test_from_the_first_feedback_on_the_loss_weighs_half_as_much_again():
    text = [(FIRST_WRONG, 1.0), (f"\nFeedback: {FIRST}\nUpdated answer:\n{GOLD}", 1.0)]
    (_, prompt), (attempt, one), (rest, more) = weights(OBJECTIVE, *text)
    assert (prompt, one, more) == (0.0, 1.0, 1.5)
    assert attempt == FIRST_WRONG and rest.startswith("\nFeedback: Step 1") and rest.endswith("</s>")
    assert [weight for _, weight in weights(SFT, *text)] == [0.0, 1.0]


def test_a_wrong_attempt_of_weight_0_is_not_learned():
    (prompt, nothing), (learned, more) = weights(OBJECTIVE, (FIRST_WRONG, 0.0), (f"\nFeedback: {FIRST}", 1.0))
    assert nothing == 0 and prompt.endswith(FIRST_WRONG)
    assert (more, learned) == (1.5, f"\nFeedback: {FIRST}</s>")


def test_an_answer_that_is_right_at_once_and_one_without_feedback_keep_their_weights():
    assert [w for _, w in weights(OBJECTIVE, (GOLD, 1.0), (f"\nFeedback: {ALL_RIGHT}", 1.0))] == [0.0, 1.0]
    assert [w for _, w in weights(OBJECTIVE, (GOLD, 1.0))] == [0.0, 1.0]


def test_pads_are_never_learned():
    from lai_ray.common.chat_template import load_tokenizer
    from lai_ray.training.sequences import Sequences
    from lai_ray.world import STUDENT

    tokenizer, made = load_tokenizer(STUDENT), Sequences()
    for name, text in (("long", f"{FIRST_WRONG}\n{GOLD}"), ("short", GOLD)):
        turns = [(text, 1.0), (f"\nFeedback: {FIRST}", 1.0)]
        made.add(name, OBJECTIVE.tokens(tokenizer, Example(name, [{"role": "user", "content": "?"}], turns), 512))
    ids, padded = made.padded([0, 1])
    short = made.lengths[1]
    assert short < ids.shape[1] and not padded[1, short:].any() and (padded[1, short - 5 : short] == 1.5).all()


def test_the_setting_decides_the_weight_of_wrong_attempts_only():
    for own, weight in ({}, 1.0), ({"wrong_attempt_weight": 0.0}, 0.0):
        by_kind = {s.id.rpartition("/")[2]: [t.weight for t in s.turns] for s in Dialogue(FIRST_WRONG, **own).samples}
        assert by_kind == {"improvement.0": [weight, 1.0], "right": [1.0, 1.0], "gold": [1.0, 1.0]}


# Whole runs


class Pupil(LocalExecutor):
    """A target whose sampled attempts miss a step as often as the seed says."""

    def generate(self, requests, target):
        for request in requests:
            for answer in super().generate([request], target):
                text = request.temperature and attempted(request.messages, request.seed)
                yield Answer(answer.id, answer.key, Completion(text, "stop", 5, 5)) if text else answer


def attempted(messages, seed: int) -> str | None:
    from lai_ray.world import word_kinds as kinds

    item = kinds.recognise(messages[0]["content"])
    gold = item.response.splitlines()
    if len(messages) > 1:  # It goes on: all is right, it says.
        return f" {ALL_RIGHT}"
    if seed % 3 == 0:
        return item.response
    left = gold[0].rpartition(" = ")[0]
    wrong = f"{left} = {item.answer + 1 + seed % 7}\n#### {item.answer + 1 + seed % 7}"
    return wrong if seed % 3 == 1 else f'{wrong}\nFeedback: Step 9, "", is wrong: no\nUpdated answer:\n{wrong}'


def corrected(request) -> str:
    """An instructor: names the first step; then the whole solution, for which it reads the question."""
    from lai_ray.world import word_kinds as kinds

    text = request.messages[-1]["content"]
    item = kinds.recognise(text.split("[QUESTION]\n")[1].split("\n\n")[0])
    attempt = text.split("[SOLUTION]\n")[1].split("\n\n")[0].splitlines()
    gold = item.response.splitlines()
    if "[FEEDBACK]" in text:
        return item.response
    at = next((i for i, (a, b) in enumerate(zip(attempt, gold, strict=False)) if a != b), 0)
    return TOLD.format(at + 1, attempt[at])


def tripost(tmp_path, name="small", **changes):
    changes.setdefault("strategy", {"tripost": {"feedback": "instructor"}})
    return job(tmp_path, name=name, schedule__strategy="tripost", **changes)


def test_a_run_learns_trajectories_in_proportion_with_their_own_weights_and_twice_the_same_problems(tmp_path):
    config = tripost(tmp_path, iterations=2, curate__samples_per_dataset=60, train__objective="self_correction")
    executor = Pupil(reply=corrected)
    cli_run.run_job(config, executor=executor)
    for iteration, training in enumerate(executor.jobs):
        samples = list(records(tmp_path / f"small/iteration_{iteration}/curate/samples.jsonl"))
        kinds = [s["id"].rpartition("/")[2].partition(".")[0] for s in samples]
        improved = kinds.count("improvement")
        assert improved > 5
        assert kinds.count("right") == kinds.count("gold") == math.ceil(improved / 1.5)
        assert len(training.examples) == len(samples) and training.settings.objective == "self_correction"
    asked = executor.requests["ask"]
    assert {r.temperature for r in asked} == {0.0, 0.7} and len({r.key for r in asked}) == len(asked)


@pytest.mark.parametrize(("verb", "after"), [("generate", 105), ("generate", 140), ("ask", 1), ("ask", 17)])
def test_killed_in_the_middle_of_dialogues_nothing_is_asked_twice_and_the_trajectories_are_the_same(
    tmp_path, verb, after
):
    cli_run.run_job(tripost(tmp_path, "whole"), executor=Pupil(reply=corrected))
    broken, rest = Pupil(reply=corrected, die_after={verb: after}), Pupil(reply=corrected)
    with pytest.raises(Crash):
        cli_run.run_job(tripost(tmp_path, "killed"), executor=broken)
    cli_run.run_job(tripost(tmp_path, "killed"), executor=rest)
    for each in ("generate", "ask"):
        before, afterwards = ({r.key for r in one.requests[each]} for one in (broken, rest))
        assert not before & afterwards, each
    for file in ("instruct/replies.jsonl", "curate/samples.jsonl", "curate/dropped.jsonl"):
        one, other = (tmp_path / name / "iteration_0" / file for name in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes(), file
    third = Pupil(reply=corrected)
    cli_run.run_job(tripost(tmp_path, "killed"), executor=third)
    assert not third.asked


def test_with_the_benchmarks_script_a_whole_run_asks_no_instructor(tmp_path):
    executor = Pupil()
    cli_run.run_job(tripost(tmp_path, strategy={"tripost": {}}), executor=executor)
    assert not executor.requests["ask"] and len(executor.jobs[0].examples) > 10


def test_equal_trajectories_of_one_problem_are_learned_once(tmp_path):
    class Same(Pupil):
        """Answers every sampled request as if its seed were 1."""

        def generate(self, requests, target):
            for request in requests:
                yield from super().generate([request if not request.temperature else with_seed(request, 1)], target)

    def with_seed(request, seed):
        return type(request)(request.id, request.key, request.messages, request.max_tokens, request.temperature, seed)

    config = tripost(
        tmp_path, strategy={"tripost": {}}, curate__samples_per_dataset=400, evaluate__max_train_problems=20
    )
    cli_run.run_job(config, executor=Same())
    samples = list(records(tmp_path / "small/iteration_0/curate/samples.jsonl"))
    texts = [(s["id"].rpartition("/")[2], s["problem"]["question"], str(s["turns"])) for s in samples]
    assert len(set(texts)) == len(texts) >= 20
    dropped = [s["dropped"] for s in records(tmp_path / "small/iteration_0/curate/dropped.jsonl")]
    assert "duplicate" in dropped


@pytest.mark.parametrize("setting", ["solve_again", "rehearse"])
def test_checks_of_new_problems_are_refused(tmp_path, setting):
    with pytest.raises(ConfigError, match=rf"curate\.{setting}.*tripost"):
        cli_run.run_job(tripost(tmp_path, **{f"curate__{setting}": True}), executor=LocalExecutor())


def test_a_budget_stops_before_the_call(tmp_path):
    executor = Pupil(reply=corrected)
    with pytest.raises(StageError, match=r"limits\.max_calls = 3\b"):
        cli_run.run_job(tripost(tmp_path, limits__max_calls=3), executor=executor)
    assert len(executor.requests["ask"]) == 3


# The report


class Correcting(LocalExecutor):
    """Answers the tests by turns: right, mended, spoiled, wrong but called right."""

    def generate(self, requests, target):
        from lai_ray.world import word_kinds as kinds

        for i, request in enumerate(requests):
            item = kinds.recognise(request.messages[0]["content"])
            good, bad = f"#### {item.answer}", f"#### {item.answer + 1}"
            feedback = f'Step 1, "{bad}", is wrong: no'
            parts = [[good], [bad, feedback, good], [good, feedback, bad, ALL_RIGHT], [bad, ALL_RIGHT]][i % 4]
            yield Answer(request.id, request.key, Completion(joined(*parts), "stop", 5, 5))


def test_a_section_of_the_report_has_first_answers_apart(tmp_path):
    from lai_ray.report import sections

    named = ["lai_ray.report.self_correction:SECTION"]
    config = job(tmp_path, iterations=0, evaluate__learn_from=[], report__sections=named)
    run = cli_run.run_job(config, executor=Correcting()).run
    (table,) = (t for t in sections.tables_of(run) if t.title == "Self-correction")
    assert table.rows == [["word_problems", "0", "40", "20", "20", "10", "10", "20"]]
    plain = job(tmp_path, name="plain", iterations=0, evaluate__learn_from=[], report__sections=named)
    run = cli_run.run_job(plain, executor=LocalExecutor()).run
    assert not [t for t in sections.tables_of(run) if t.title == "Self-correction"]
