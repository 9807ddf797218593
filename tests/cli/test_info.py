from mogu.adapter.card import shown


def row(out, name):
    """What stands behind a name in the tables."""
    (line,) = [line for line in out.splitlines() if line.strip().startswith(name + " ")]
    return line.strip().removeprefix(name).strip()


def test_what_the_folder_says_of_itself_isshown(mogu, adapter_folder):
    code, out, _ = mogu("info", adapter_folder)
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


def test_long_and_nested_lists_are_only_counted():
    assert shown([1, 2.5, None]) == "1, 2.5, none"
    assert shown([{"step": 1}, {"step": 2}]) == "2 entries, in mogu_config.json"
    assert shown(list(range(9))) == "9 entries, in mogu_config.json"


def test_a_folder_that_is_none_is_refused(mogu, tmp_path):
    code, out, err = mogu("info", tmp_path / "absent")
    assert (code, out) == (2, "")
    assert "absent" in err
    assert err.count("\n") == 1
