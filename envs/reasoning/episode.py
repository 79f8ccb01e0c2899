"""A conversation about one problem: what the policy sees, what it answered, what it was told.

Both environments are built on this, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from envs.reasoning.problem import Problem, Task, Verdict
from envs.reasoning.text import TURN, clean

Message = dict[str, str]
FEEDBACK_LENGTH = 128
QUESTION_LENGTH = 1 << 16


@dataclass(slots=True)
class Episode:
    """`turns` holds (response, feedback) so far; `done` once correct or out of turns."""

    problem: Problem
    seed: int
    difficulty: int
    turns: list[tuple[str, str]] = field(default_factory=list)
    done: bool = False

    def observation(self, turn: str = TURN) -> str:
        """The prompt so far: question, then for each turn the response and, on its own line, the feedback.

        turn: what stands before each of these.
        """
        text = self.problem.question
        for response, feedback in self.turns:
            # A short prompt ends in "=" and is completed in place; a sentence is answered on the next line.
            gap = "" if text.endswith("=") else "\n" if not text.endswith("\n") else ""
            text = f"{text}{gap}{turn}{response}\n{turn}{feedback}\n"
        return text

    def messages(self) -> list[Message]:
        """The same as chat messages, for a policy with a chat template."""
        messages = [{"role": "user", "content": self.problem.question}]
        for response, feedback in self.turns:
            messages.append({"role": "assistant", "content": response})
            messages.append({"role": "user", "content": feedback})
        return messages

    def advance(self, response: str, verdict: Verdict, max_turns: int) -> None:
        """Take a judged response (already a member of the space) into the conversation."""
        self.done = verdict.correct or len(self.turns) + 1 >= max_turns
        ending = "." if self.done else ". Try again."
        reason = verdict.reason[: FEEDBACK_LENGTH - len(ending)]
        self.turns.append((response, reason[:1].upper() + reason[1:] + ending))


def judge(
    task: Task,
    problems: Sequence[Problem],
    responses: Sequence[str],
    max_length: int,
    charset: frozenset[str],
) -> tuple[list[str], list[Verdict]]:
    """Responses as the conversation keeps them, and their verdicts.

    A response longer than `max_length` is wrong unread. A verifier that raises makes its response wrong: text
    from a model must not be able to end a run.
    """
    kept = [clean(response, max_length, charset) for response in responses]
    short = [i for i, response in enumerate(responses) if len(response) <= max_length]
    verdicts = [Verdict(False, "", "too long")] * len(responses)
    try:
        judged = task.verify_many([problems[i] for i in short], [responses[i] for i in short])
    except Exception:
        judged = [_judge_one(task, problems[i], responses[i]) for i in short]
    for i, verdict in zip(short, judged, strict=True):
        verdicts[i] = verdict
    return kept, verdicts


def _judge_one(task: Task, problem: Problem, response: str) -> Verdict:
    try:
        return task.verify(problem, response)
    except Exception as error:
        return Verdict(False, "", f"error: {type(error).__name__}")
