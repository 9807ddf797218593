import re

import pytest

from mogu.generation import MoguModel


def test_the_picture_shows_the_trace_of_prompt_and_reply(mogu, adapter_folder, tmp_path):
    file = tmp_path / "new" / "page.html"
    prompt = "Is <this> it?"
    code, out, _ = mogu(
        "inspect", adapter_folder, "--prompt", prompt, "--output", file, "--max-new-tokens", 6
    )
    assert (code, out) == (0, f"Picture: {file}\n")
    html = file.read_text(encoding="utf-8")
    assert "<h1>Is &lt;this&gt; it?</h1>" in html
    trace = MoguModel.from_pretrained(adapter_folder).trace(
        [{"role": "user", "content": prompt}], max_new_tokens=6
    )
    routed = sum(trace.routed)
    assert f"{routed} of {len(trace.tokens)} tokens are routed, in {len(trace.layers)} layers." in html
    assert html.count("<td ") == routed * (1 + len(trace.layers))
    assert re.findall(r"<th>(\d+)</th>", html) == [str(layer) for layer in trace.layers]


@pytest.mark.parametrize("threshold", [None, 0.0, 1.0])
def test_of_a_sequence_adapter_it_shows_the_gate_along_the_words(mogu, sequence_folder, tmp_path, threshold):
    file, prompt = tmp_path / "page.html", "Is <this> it?"
    more = [] if threshold is None else ["--threshold", threshold]
    code, out, _ = mogu(
        "inspect", sequence_folder, "--prompt", prompt, "--output", file, "--max-new-tokens", 6, *more
    )
    assert (code, out) == (0, f"Picture: {file}\n")
    html = file.read_text(encoding="utf-8")
    trace = MoguModel.from_pretrained(sequence_folder).trace(
        [{"role": "user", "content": prompt}], threshold=threshold, max_new_tokens=6
    )
    assert trace.threshold == (0.52 if threshold is None else threshold)
    score = trace.gate[trace.prompt_length - 1]
    assert ("<strong>Refused:</strong>" in html) == (score >= trace.threshold)
    assert ("<strong>The base's reply:</strong>" in html) == (score < trace.threshold)
    assert f'aria-label="probability {score:.2f}, threshold {trace.threshold:.2f}"' in html
    assert len(re.findall(r'<span class="s\d', html)) == trace.prompt_length
    assert "<table>" not in html


def test_of_an_adapter_with_the_usable_variant_it_says_that_this_one_answers(mogu, usable_folder, tmp_path):
    file = tmp_path / "page.html"
    given = ["--prompt", "Hi", "--output", file, "--max-new-tokens", 6, "--threshold", 1.0]
    assert mogu("inspect", usable_folder, *given)[0] == 0
    html = file.read_text(encoding="utf-8")
    assert "<strong>The usable variant's reply:</strong>" in html and "reply, by the usable variant" in html


def test_a_token_adapter_refuses_a_threshold(mogu, adapter_folder, tmp_path):
    given = ["--prompt", "Hi", "--output", tmp_path / "page.html", "--threshold", 0.5]
    code, _, err = mogu("inspect", adapter_folder, *given)
    assert code == 2
    assert "threshold belongs to sequence routing; this adapter routes token by token" in err
    assert not (tmp_path / "page.html").exists()


def test_an_empty_prompt_is_refused(mogu, adapter_folder, tmp_path):
    code, _, err = mogu("inspect", adapter_folder, "--prompt", " ", "--output", tmp_path / "page.html")
    assert code == 2
    assert "'prompt' is empty" in err
