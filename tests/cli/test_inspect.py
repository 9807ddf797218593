import re

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


def test_an_empty_prompt_is_refused(mogu, adapter_folder, tmp_path):
    code, _, err = mogu("inspect", adapter_folder, "--prompt", " ", "--output", tmp_path / "page.html")
    assert code == 2
    assert "'prompt' is empty" in err
