import json
import sys

import pytest

from mogu.defenses import DEFENSES
from mogu.defenses.base import Defense
from mogu.errors import MoguError
from mogu.generation import MoguModel
from tests.judges.chat_server import SOON, Response, says, serving

SETS = ["--attacks", "own_direct", "--usability", "own_everyday"]
SHORT = ["--limit", 4, "--max-new-tokens", 5, "--device", "cpu"]
THREE = ["none", "mogu", "self_reminder"]
CHEAP = ["--defenses", "none"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def compare(mogu, adapter_folder, tmp_path):
    """Runs `mogu eval` on few prompts; what is given comes last, so that it wins."""

    def run(*more, folder=adapter_folder):
        return mogu("eval", folder, "--output", tmp_path / "out", *SETS, *SHORT, *more)

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Nothing may be loaded."""

    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(MoguModel, "from_pretrained", load)


@pytest.fixture
def asked(monkeypatch):
    """The conversations that a model was asked to go on with."""
    conversations, reply = [], MoguModel.reply

    def spy(self, given, **settings):
        conversations.extend(given)
        return reply(self, given, **settings)

    monkeypatch.setattr(MoguModel, "reply", spy)
    return conversations


@pytest.fixture
def says_nothing(monkeypatch):
    """A defense that cannot answer."""

    class Mute(Defense):
        paper = "none"

        def reply(self, talks, max_new_tokens):
            raise MoguError("it has no voice")

    monkeypatch.setitem(DEFENSES, "mute", Mute)


def report(tmp_path):
    return json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))


def test_defenses_are_compared_and_the_reports_written(compare, tmp_path):
    code, out, err = compare("--defenses", ",".join(THREE))
    assert code == 0, err
    assert out == f"24 replies of 3 defenses: {tmp_path / 'out' / 'report.html'}\n"
    assert "mogu: replies: 8 of 8" in err and "missing" not in err
    whole = report(tmp_path)
    assert list(whole["defenses"]) == THREE
    for name in THREE:
        for suffix in ("html", "md"):
            assert name in (tmp_path / "out" / f"report.{suffix}").read_text(encoding="utf-8")
    facts = whole["facts"]
    assert (facts["prompts of each set, at most"], facts["new tokens, at most"]) == ("4", "5")
    assert facts["base"] == "base" and facts["command"].startswith("mogu")
    assert all(name in facts["versions"] for name in ("mogu-llm ", "torch ", "inspect-ai "))
    assert len(list((tmp_path / "out" / "logs").rglob("*.eval"))) == 3


def test_the_same_command_again_asks_nothing(compare, tmp_path, monkeypatch):
    assert compare("--defenses", "none,mogu")[0] == 0
    first = report(tmp_path)
    monkeypatch.setattr(MoguModel, "reply", None)
    code, out, _ = compare("--defenses", "none,mogu")
    assert code == 0 and out.startswith("16 replies of 2 defenses")
    assert report(tmp_path)["defenses"] == first["defenses"]


def test_all_stands_for_every_defense_but_a_guard_and_others_may_stand_beside_it(
    compare, tmp_path, monkeypatch
):
    few = {name: DEFENSES[name] for name in ("none", "mogu", "guard", "safety_prompt")}
    monkeypatch.setattr("mogu.defenses.DEFENSES", few)
    assert compare("--defenses", "mogu,all,none")[0] == 0
    assert list(report(tmp_path)["defenses"]) == ["none", "mogu", "safety_prompt"]


def test_other_judges_ask_again(compare, asked):
    with serving(says('{"explanation": "So.", "score": 2}')) as server:
        judge = [*CHEAP, "--judges", "harmfulness", "--judge-url", server.url, "--judge-model"]
        assert compare(*judge, "one")[0] == 0
        assert (len(asked), len(server.requests)) == (8, 4)
        assert compare(*judge, "one")[0] == 0
        assert (len(asked), len(server.requests)) == (8, 4)
        assert compare(*judge, "two")[0] == 0
        assert (len(asked), len(server.requests)) == (16, 8)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--fail-under", "refusal=0.99"], "refusal of mogu is 0, under 0.99"),
        (["--fail-over", "benign_refusal=-0.5"], "benign_refusal of mogu is 0, over -0.5"),
    ],
)
def test_a_limit_that_is_not_kept_is_a_line_and_exit_code_1(compare, tmp_path, given, line):
    code, out, err = compare("--defenses", "none,mogu", *given)
    assert code == 1
    assert line in err.splitlines()
    assert "16 replies" in out and (tmp_path / "out" / "report.html").exists()


def test_limits_that_are_kept(compare):
    given = ["--fail-under", "refusal=0", "--fail-over", "benign_refusal=1"]
    assert compare("--defenses", "none,mogu", *given)[0] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--defenses", "none,moguu"],
            "There is no defense 'moguu'. Did you mean mogu? There are: none, mogu, ",
        ),
        (["--defenses", ","], "no name is given; write names with commas between, or all"),
        (["--attacks", "own_dierct"], "There is no prompt set 'own_dierct'. Did you mean own_direct"),
        (["--attacks", "own_everyday"], "own_everyday is a benign set: name it with --usability"),
        (["--usability", "own_direct"], "own_direct is a malicious set: name it with --attacks"),
        (["--attacks", "own_direct=here.json"], "'own_direct' comes with mogu and is read from no file."),
        (["--attacks", "advbench=no_such_file.json"], "no_such_file.json: there is no such file or folder."),
        (["--attacks", "advbench="], "'advbench=' names no file or folder after the equals sign."),
        (["--judges", "gpt"], "no judge is called 'gpt'; there are refusal, "),
        (["--judges", "refusal,harmfulness"], "the judge harmfulness asks a model: give an endpoint's"),
        (
            ["--judges", "harmfulness", "--judge-url", "http://localhost:1/v1"],
            "--judge-url needs --judge-model",
        ),
        (
            ["--judges", "harmfulness", "--judge-url", "localhost:1", "--judge-model", "m"],
            "'localhost:1' is no address of an endpoint",
        ),
        (["--judges", "classifier:no/such/place"], "cannot load the classifier no/such/place"),
        (
            ["--fail-under", "kindness=1"],
            "there is no figure 'kindness' to set a limit for; there are refusal",
        ),
        (["--fail-over", "refusal"], "'refusal' is no limit; write NAME=VALUE, such as refusal=0.95"),
        (["--fail-under", "refusal=nan"], "'refusal=nan' is no limit; write NAME=VALUE"),
        (
            ["--defenses", "none", "--fail-under", "refusal=0.9"],
            "--fail-under and --fail-over are for mogu: name it with --defenses",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_is_loaded(
    compare, no_model, tmp_path, given, message
):
    code, out, err = compare(*given)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_not_there_is_one_line(compare, no_model, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    judge = ["--judges", "harmfulness", "--judge-url", "https://api.openai.com/v1", "--judge-model", "m"]
    code, _, err = compare(*judge, "--judge-key", "MY_KEY")
    assert code == 2 and "needs an API key: set MY_KEY" in err


def test_without_inspect_it_says_how_to_get_it(compare, no_model, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "inspect_ai"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    for name in ("comparison", "provider", "tasks"):
        monkeypatch.delitem(sys.modules, f"mogu.evaluation.{name}", raising=False)
    code, out, err = compare()
    assert (code, out) == (2, "")
    assert err == "error: inspect_ai is not installed; get it with: pip install 'mogu-llm[eval]'\n"


def test_a_folder_that_is_no_adapter_is_one_line(compare, tmp_path):
    code, out, err = compare(*CHEAP, folder=tmp_path)
    assert (code, out) == (2, "") and err.count("\n") == 1


def test_a_published_set_that_is_nowhere_is_told_and_the_others_run(compare, tmp_path):
    given = ["--attacks", "own_direct,advbench", "--data", tmp_path, *CHEAP]
    code, out, err = compare(*given)
    assert code == 0 and out.startswith("8 replies of 1 defenses")
    (line,) = [line for line in err.splitlines() if "advbench" in line]
    assert line.startswith("advbench is missing: 'advbench' cannot be read from the hub.")
    assert "A copy is given as advbench=PATH" in line


def test_no_set_at_all_is_one_line(compare, no_model, tmp_path):
    given = ["--attacks", "advbench", "--usability", "justeval", "--data", tmp_path]
    code, out, err = compare(*given)
    assert (code, out) == (2, "")
    assert err.startswith("error: no prompt set could be read: 'advbench' cannot be read from the hub.")
    assert err.count("\n") == 1


@pytest.mark.parametrize("by", ["data", "location"])
def test_published_sets_are_read_from_files(compare, tmp_path, by):
    rows = [{"goal": f"Name thief {number}", "target": "Sure"} for number in range(6)]
    (tmp_path / "advbench.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "data": ["--attacks", "advbench", "--data", tmp_path],
        "location": ["--attacks", f"advbench={tmp_path / 'advbench.json'}"],
    }[by]
    code, out, err = compare(*given, *CHEAP)
    assert code == 0 and out.startswith("8 replies of 1 defenses"), err
    assert set(report(tmp_path)["defenses"]["none"]["sets"]["malicious"]) == {"advbench"}


def test_a_file_of_another_form_is_one_line(compare, no_model, tmp_path):
    (tmp_path / "advbench.json").write_text('[{"aim": "Name a thief"}]', encoding="utf-8")
    code, _, err = compare("--attacks", f"advbench={tmp_path / 'advbench.json'}")
    assert code == 2 and "advbench.json row 1: needs 'goal' or 'prompt', but has aim." in err


def test_a_defense_that_cannot_be_had_is_told_and_the_others_run(compare):
    code, out, err = compare("--defenses", "none,guard")
    assert code == 1 and out.startswith("8 replies of 1 defenses")
    assert [line for line in err.splitlines() if line.startswith("guard is missing: guard needs a model")]


def test_no_defense_at_all_is_one_line(compare, tmp_path):
    code, out, err = compare("--defenses", "guard")
    assert (code, out) == (2, "")
    assert err.startswith("error: no defense could be run: guard needs a model") and err.count("\n") == 1
    assert not (tmp_path / "out" / "report.html").exists()


def test_replies_that_are_errors_are_counted_and_the_rest_is_reported(compare, says_nothing, tmp_path):
    code, out, err = compare("--defenses", "none,mute")
    assert code == 1 and out.startswith("16 replies of 2 defenses")
    (line,) = [line for line in err.splitlines() if "errors" in line]
    assert line == "8 replies are errors, the first: MoguError('it has no voice')"
    assert report(tmp_path)["defenses"]["mute"]["malicious"]["errors"] == 4


def judged(compare, url, defenses="none,mogu"):
    judge = ["--judges", "refusal,harmfulness", "--judge-url", url, "--judge-model", "tiny"]
    return compare("--defenses", defenses, *judge)


def harmfulness(tmp_path, defense):
    return report(tmp_path)["defenses"][defense]["malicious"]["measures"]


def test_a_judge_behind_an_endpoint_is_asked_about_every_defense(compare, tmp_path):
    with serving(says('{"explanation": "So.", "score": 2}')) as server:
        code, _, err = judged(compare, server.url)
    assert code == 0, err
    assert len(server.requests) == 2 * 4
    for name in ("none", "mogu"):
        measure = harmfulness(tmp_path, name)["harmfulness.score"]
        assert (measure["mean"], measure["judged"], measure["unjudged"]) == (2.0, 4, 0)


def test_an_endpoint_that_answers_garbage_leaves_replies_unjudged(compare, tmp_path):
    answers = [says('{"explanation": "So.", "score": 4}'), says("I would rather talk of the weather.")]
    with serving(*answers) as server:
        code, out, err = judged(compare, server.url)
    assert code == 0 and "errors" not in err
    assert out.startswith("16 replies of 2 defenses")
    first, second = (harmfulness(tmp_path, name)["harmfulness.score"] for name in ("none", "mogu"))
    assert (first["mean"], first["judged"], first["unjudged"]) == (4.0, 1, 3)
    assert (second["mean"], second["judged"], second["unjudged"]) == (None, 0, 4)


def test_a_rate_limit_and_a_server_error_are_waited_for(compare):
    busy, broken = Response("busy", 429, SOON), Response("broken", 500, SOON)
    with serving(busy, broken, says('{"explanation": "So.", "score": 2}')) as server:
        code, _, err = judged(compare, server.url, "none")
    assert code == 0 and "errors" not in err
    assert len(server.requests) == 4 + 2


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (Response('{"error": {"message": "slow down"}}', 429, SOON), "slow down"),
        (Response('{"error": {"message": "out of memory"}}', 500, SOON), "out of memory"),
        (Response("<html>Welcome</html>", headers={"Content-Type": "text/html"}), "no chat completion came"),
    ],
)
def test_an_endpoint_that_does_not_answer_is_an_error_of_each_reply_and_is_asked_again(
    compare, asked, tmp_path, response, reason
):
    answer = [response]
    with serving(lambda request: answer[0]) as server:
        code, out, err = judged(compare, server.url, "none")
        assert code == 1 and out.startswith("8 replies of 1 defenses")
        (line,) = [line for line in err.splitlines() if "errors" in line]
        assert line.startswith("4 replies are errors, the first: ") and reason in line
        malicious, benign = (report(tmp_path)["defenses"]["none"][each] for each in ("malicious", "benign"))
        assert (malicious["replies"], malicious["errors"]) == (0, 4)
        assert (benign["replies"], benign["errors"]) == (4, 0)
        # The endpoint is mended: it is asked again about what were errors, and the model nothing.
        answer[0] = says('{"explanation": "So.", "score": 2}')
        asked.clear()
        server.requests.clear()
        code, out, err = judged(compare, server.url, "none")
        assert code == 0 and "errors" not in err
        assert (asked, len(server.requests)) == ([], 4)
    assert harmfulness(tmp_path, "none")["harmfulness.score"]["judged"] == 4
