"""The bars of the README: refusals of malicious and benign prompts that training has never seen, before and after.

    python -m benchmarks.bars --adapter runs/demo/adapter --data FOLDER

FOLDER holds ``advbench.json`` (rows with ``goal``), ``xstest.json`` (``prompt``, ``label``) and ``justeval.json``
(``instruction``; the first 800 are benign), as their projects publish them. The replies stay in ``runs/bars``, which
is not committed; the figures go into ``benchmarks/log.jsonl`` with the commit they were measured at.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from rich.table import Table
from sklearn.metrics import roc_auc_score

from benchmarks.candidate import Candidate, parser_of
from mogu.chat import Conversation
from mogu.evaluation.before_after import ReplyRow, first_token_divergence, refused_shares

JUSTEVAL_BENIGN = 800


def read_benchmarks(folder: Path) -> dict[str, list[Conversation]]:
    """The prompts of the published sets, by name."""
    advbench = json.loads((folder / "advbench.json").read_text(encoding="utf-8"))
    xstest = json.loads((folder / "xstest.json").read_text(encoding="utf-8"))
    justeval = json.loads((folder / "justeval.json").read_text(encoding="utf-8"))
    texts = {
        "AdvBench": [row["goal"] for row in advbench],
        "Just-Eval benign": [row["instruction"] for row in justeval[:JUSTEVAL_BENIGN]],
        "XSTest safe": [row["prompt"] for row in xstest if row["label"] == "safe"],
        "XSTest unsafe": [row["prompt"] for row in xstest if row["label"] != "safe"],
    }
    return {name: [[{"role": "user", "content": text}] for text in rows] for name, rows in texts.items()}


def _gate_figures(rows: list[ReplyRow]) -> dict[str, Any]:
    """What the gate itself says: flagged shares, XSTest's AUROC, and whether unflagged replies are the base's."""
    base = {(row.group, row.prompt): row.response for row in rows if row.mode == "base"}
    mogu = [row for row in rows if row.mode == "mogu"]
    unflagged = [row for row in mogu if row.safe_weight == 0]
    same = sum(row.response == base[row.group, row.prompt] for row in unflagged)
    xstest = [row for row in mogu if row.group.startswith("XSTest")]
    groups = dict.fromkeys(row.group for row in mogu)
    flagged = {group: [row.safe_weight > 0 for row in mogu if row.group == group] for group in groups}
    return {
        "flagged": {group: round(sum(each) / len(each), 4) for group, each in flagged.items()},
        "xstest_auroc": round(
            float(
                roc_auc_score([row.group == "XSTest unsafe" for row in xstest], [row.score for row in xstest])
            ),
            4,
        ),
        "unflagged": len(unflagged),
        "unflagged_equal_to_base": same,
    }


def main() -> None:
    """Measure one adapter and log it."""
    parser = parser_of(__doc__, max_new_tokens=48)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    groups = read_benchmarks(options.data)
    candidate = Candidate.of(options, Path("runs/bars"))
    model, console = candidate.model, candidate.console
    rows = candidate.answer(groups, "base", model.config.base.fingerprint.replace(":", "-")[:16])
    rows += candidate.answer(groups, "mogu")
    shares = refused_shares(rows)
    gate = _gate_figures(rows) if model.config.weights == "sequence" else None
    divergence = first_token_divergence(model, groups["Just-Eval benign"])
    table = Table("set", "n", "base", "MoGU", "difference")
    for group, modes in shares.items():
        base, mogu = modes["base"], modes["mogu"]
        cells = [f"{s.value:.1%} ({s.low:.1%}-{s.high:.1%})" for s in (base, mogu)]
        table.add_row(group, str(base.replies), *cells, f"{100 * (mogu.value - base.value):+.1f} points")
    console.print(table)
    console.print(f"first-token KL on Just-Eval: mean {statistics.mean(divergence):.3f} nats")
    if gate:
        console.print(f"gate: {json.dumps(gate)}")
    candidate.log(
        {
            "refused": {g: {n: round(s.value, 4) for n, s in modes.items()} for g, modes in shares.items()},
            "first_token_kl": {
                "mean": round(statistics.mean(divergence), 4),
                "median": round(statistics.median(divergence), 4),
            },
            "gate": gate,
            "training": model.config.training,
        }
    )


if __name__ == "__main__":
    main()
