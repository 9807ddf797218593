from pathlib import Path

import pytest

from mogu.adapter.folder import read_config
from mogu.errors import TrainingDivergedError
from mogu.files import write_jsonl
from mogu.generation import MoguModel
from mogu.training import pipeline
from mogu.training.settings import TrainingSettings
from tests.tiny import save_tiny


@pytest.fixture
def training(monkeypatch):
    """Calls of `train`, which only reports that it is half done."""
    calls = []

    def train(model, output, settings, *, progress, **options):
        calls.append({"model": model, "output": output, "settings": settings, **options})
        progress("safe", 2, 2)
        return output

    monkeypatch.setattr(pipeline, "train", train)
    return calls


def test_without_options_the_default_preset_is_trained(mogu, training):
    code, out, err = mogu("train", "some/model", "--output", "runs/a")
    assert code == 0
    assert training == [
        {
            "model": "some/model",
            "output": Path("runs/a"),
            "settings": TrainingSettings.preset("default"),
            "malicious": None,
            "benign": None,
            "projection": None,
            "chat_template": None,
            "device": None,
            "dtype": "auto",
            "trust_remote_code": False,
        }
    ]
    assert out == "Adapter: runs/a\nNext:    mogu chat runs/a\n"
    assert "Training the safe variant: 2 of 2" in err


def test_every_option_reaches_the_training(mogu, training, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("rank = 4\nbatch_size = 2\n")
    given = [
        "--preset",
        "paper",
        "--config",
        file,
        "--set",
        "rank=2",
        "--set",
        "routed_tokens=3",
        "--seed",
        9,
    ]
    data = ["--malicious", "m.jsonl", "--benign", "b.csv"]
    place = [
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
        "--projection",
        "attn.out",
        "--chat-template",
        "t.jinja",
    ]
    assert mogu("train", "x.gguf", "--output", "a", *given, *data, *place, "--trust-remote-code")[0] == 0
    (call,) = training
    changes = {"rank": 2, "batch_size": 2, "routed_tokens": 3, "seed": 9}
    assert call.pop("settings") == TrainingSettings.preset("paper").model_copy(update=changes)
    assert call == {
        "model": "x.gguf",
        "output": Path("a"),
        "malicious": "m.jsonl",
        "benign": "b.csv",
        "projection": "attn.out",
        "chat_template": Path("t.jinja"),
        "device": "cpu",
        "dtype": "bfloat16",
        "trust_remote_code": True,
    }


def test_all_mistakes_in_the_settings_come_at_once(mogu, training):
    code, _, err = mogu(
        "train", "m", "--output", "a", "--set", "rnk=2", "--set", "batch_size=0", "--seed", -1
    )
    assert code == 2
    assert "error: 3 mistakes in the settings:" in err
    assert "did you mean 'rank'?" in err
    assert "'batch_size' is '0'" in err
    assert "'seed' is '-1'" in err
    assert training == []


def test_an_unknown_preset_is_refused(mogu, training):
    code, _, err = mogu("train", "m", "--output", "a", "--preset", "fast")
    assert code == 2
    assert "there is no preset 'fast'" in err
    assert training == []


def test_a_training_that_diverged_is_one_line(mogu, monkeypatch):
    def train(*arguments, **options):
        raise TrainingDivergedError("the loss is not a number; lower variant_learning_rate")

    monkeypatch.setattr(pipeline, "train", train)
    code, _, err = mogu("train", "m", "--output", "a")
    assert code == 2
    assert err.endswith("error: the loss is not a number; lower variant_learning_rate\n")


def test_what_was_given_in_training_stands_in_the_folder_and_holds_afterwards(mogu, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "base")
    template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}>"
    Path("chat.jinja").write_text(template)
    for label, text in (("malicious", "Harm thing {}."), ("benign", "Describe thing {}.")):
        write_jsonl(Path(f"{label}.jsonl"), [{"prompt": text.format(n)} for n in range(40)])
    counts = ("malicious_requests", "benign_requests", "variant_requests", "validation_requests")
    small = [f"{name}=8" for name in counts]
    small += ["reply_tokens=2", "routed_tokens=2", "rank=2", "variant_epochs=1", "evaluations=1"]
    given = ["--malicious", "malicious.jsonl", "--benign", "benign.jsonl", "--chat-template", "chat.jinja"]
    given += ["--projection", "self_attn.o_proj", "--device", "cpu", "--dtype", "bfloat16"]
    sets = [part for setting in small for part in ("--set", setting)]
    code, _, err = mogu("train", "base", "--output", "adapter", "--preset", "paper", *given, *sets)
    assert code == 0, err
    config = read_config(Path("adapter"))
    assert config.chat_template == template
    assert (config.dtype, config.projection) == ("bfloat16", "self_attn.o_proj")
    assert config.base.name == str(tmp_path / "base")
    card = Path("adapter/README.md").read_text(encoding="utf-8")
    assert "# MoGU adapter for base\n" in card and 'load_model("path/to/base")' in card
    assert str(tmp_path) not in card

    Path("chat.jinja").unlink()
    monkeypatch.chdir("adapter")
    tokenizer = MoguModel.from_pretrained(".", device="cpu").tokenizer
    talk = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) == "[Hi]>"


@pytest.fixture
def there(tmp_path):
    """A folder that holds an adapter."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mogu_config.json").write_text("{}")
    return tmp_path / "adapter"


def test_an_adapter_that_is_there_is_replaced_only_where_that_is_asked_for(mogu, training, there):
    code, out, err = mogu("train", "some/model", "--output", there)
    assert (code, out, training) == (2, "", [])
    assert err.endswith(
        f"error: {there} holds an adapter (mogu info {there} shows which); "
        "choose another --output, or give --overwrite to replace it\n"
    )
    assert mogu("train", "some/model", "--output", there, "--overwrite")[0] == 0
    assert len(training) == 1


def test_a_killed_training_that_was_to_replace_an_adapter_goes_on_without_asking(mogu, training, there):
    there.with_name("adapter.training").mkdir()
    assert mogu("train", "some/model", "--output", there)[0] == 0
    assert len(training) == 1


def test_the_usable_variant_can_be_asked_for(mogu, training):
    assert mogu("train", "some/model", "--output", "runs/a", "--usable")[0] == 0
    assert training[0]["settings"] == TrainingSettings(usable_variant=True)
    code, _, err = mogu("train", "some/model", "--output", "runs/a", "--usable", "--preset", "token")
    assert code == 2 and "routing='token' makes no use of usable_variant" in err
