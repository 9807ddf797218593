from mogu.adapter import folder
from mogu.adapter.config import DataSource


def row(out, name):
    """What stands behind a name in the tables."""
    (line,) = [line for line in out.splitlines() if line.strip().startswith(name + " ")]
    return line.strip().removeprefix(name).strip()


def test_what_the_folder_says_of_itself_is_shown(mogu, adapter_folder):
    code, out, _ = mogu("info", adapter_folder, "--all")
    assert code == 0
    assert row(out, "parts") == "safe, usable, routers"
    assert row(out, "projections") == "3, model.layers.0.self_attn.o_proj to model.layers.2.self_attn.o_proj"
    assert row(out, "rank") == "4"
    assert row(out, "routed reply tokens") == "5"
    assert row(out, "routed prompt tokens") == "all"
    assert row(out, "model_type") == "llama"
    assert row(out, "revision") == "none"
    assert row(out, "router.learning_rate") == "0.0005"
    assert row(out, "dtype") == "bfloat16"
    assert row(out, "projection") == "none"
    assert row(out, "refused.malicious.mogu") == "0.9688"
    assert row(out, "torch")


def test_without_all_it_fits_a_screen(mogu, adapter_folder):
    code, out, _ = mogu("info", adapter_folder)
    assert code == 0 and row(out, "parts") == "safe, usable, routers"
    assert "learning_rate" not in out and len(out.splitlines()) <= 30
    assert out.splitlines()[-1] == f"Settings, figures and versions: mogu info {adapter_folder} --all"


def test_a_sequence_adapter_tells_its_gate_and_no_routed_tokens(mogu, sequence_folder):
    code, out, _ = mogu("info", sequence_folder)
    assert code == 0
    assert row(out, "parts") == "safe, gate"
    assert row(out, "weights") == "by sequence"
    assert row(out, "gate layers") == "0, 2"
    assert row(out, "threshold") == "0.52"
    assert row(out, "reply threshold") == "none, replies are not read"
    assert "routed reply tokens" not in out
    assert "routed prompt tokens" not in out


def test_a_gate_that_reads_replies_tells_its_second_threshold(mogu, sequence_folder, monkeypatch):
    config = folder.read_config(sequence_folder)
    gate = config.gate.model_copy(update={"reply_threshold": 0.9})
    monkeypatch.setattr(folder, "read_config", lambda _: config.model_copy(update={"gate": gate}))
    assert row(mogu("info", sequence_folder)[1], "reply threshold") == "0.9"


def test_a_token_adapter_has_no_gate(mogu, adapter_folder):
    out = mogu("info", adapter_folder)[1]
    assert row(out, "weights") == "by token"
    assert "gate layers" not in out
    assert "threshold" not in out


def test_what_it_was_trained_on_is_one_line_each(mogu, adapter_folder, monkeypatch):
    assert "Data" not in mogu("info", adapter_folder)[1]
    data = [
        DataSource(label="malicious", source="mine.jsonl", sha256="0123456789abcdef" * 4, rows=300),
        DataSource(label="malicious", source="corpus", sha256="a" * 64, rows=20),
        DataSource(label="benign", source="corpus", sha256="f" * 64, rows=280),
    ]
    config = folder.read_config(adapter_folder)
    monkeypatch.setattr(folder, "read_config", lambda _: config.model_copy(update={"data": data}))
    lines = [" ".join(line.split()) for line in mogu("info", adapter_folder)[1].splitlines()]
    start = lines.index("Data")
    assert lines[start + 1 : start + 4] == [
        "malicious 300 rows of mine.jsonl, sha256 0123456789ab",
        "malicious 20 rows of corpus, sha256 aaaaaaaaaaaa",
        "benign 280 rows of corpus, sha256 ffffffffffff",
    ]


def test_a_folder_that_is_none_is_refused(mogu, tmp_path):
    code, out, err = mogu("info", tmp_path / "absent")
    assert (code, out) == (2, "")
    assert "absent" in err
    assert err.count("\n") == 1
