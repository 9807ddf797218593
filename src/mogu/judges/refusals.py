"""The rule-based refusal judge behind the interface of all judges."""

from mogu.judges.base import Judge, Judgement
from mogu.judges.refusal import judge_refusal


class RefusalJudge(Judge):
    """Whether a reply refuses, by rules on its text alone (see `judge_refusal`).

    Scores, each 0 or 1: ``opens``, a rejection keyword stands in the first sentences (the MoGU paper's check,
    arXiv 2405.14488, section 4); ``holds``, the reply refuses and still refuses at its end.
    """

    name = "refusal"

    async def judge(self, request: str, reply: str) -> Judgement:
        """Judge one reply; every reply can be judged."""
        verdict = judge_refusal(reply)
        return Judgement({"opens": float(verdict.opens), "holds": float(verdict.holds)}, verdict.reason)
