from contextlib import contextmanager
from math import nextafter
from threading import Thread

import pytest
import uvicorn
from playwright.sync_api import expect

from mogu.generation import MoguModel
from mogu.serving.http.server import bind, url_of
from mogu.serving.page import page_app
from mogu.serving.page.examples import EXAMPLES
from tests.browser import WIDTHS, opened
from tests.generation.gated import gated
from tests.generation.hardened import hardened
from tests.tiny import VOCAB_SIZE

PROMPT = "Is <b>this</b> ${1 + 1} {{it}}?"
TALK = [{"role": "user", "content": PROMPT}]
LONGEST = 96


@contextmanager
def served(model):
    bound = bind("127.0.0.1", 0, public=False, remedy="")
    server = uvicorn.Server(
        uvicorn.Config(page_app(model), log_level="critical", timeout_graceful_shutdown=1)
    )
    thread = Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        yield url_of(bound)
    finally:
        server.should_exit = True
        thread.join()


def readable(make, **options):
    """A model of its own that writes printable ASCII only, which no text area changes."""
    model = make.__wrapped__(**options)
    tokens = model.tokenizer.convert_ids_to_tokens(range(VOCAB_SIZE))
    odd = [index for index, token in enumerate(tokens[2:], start=2) if not token.replace("Ġ", " ").isascii()]
    model.model.generation_config.suppress_tokens = odd
    return model


@pytest.fixture(scope="module")
def sequence():
    return readable(gated, reply_threshold=0.9)


@pytest.fixture(scope="module")
def by_sequence(sequence):
    with served(sequence) as address:
        yield address


@pytest.fixture(scope="module")
def token():
    return readable(hardened)


@pytest.fixture(scope="module")
def by_token(token):
    with served(token) as address:
        yield address


def ask(page, prompt=PROMPT):
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Ask both").click()


def set_to(page, label, value):
    page.get_by_role("button", name="Settings").click()
    number, slider = page.get_by_label(label).first, page.get_by_label(label).last
    # What is written while the page still mounts the control is lost: the slider does not follow.
    for _ in range(50):
        number.fill(str(value))
        number.blur()
        page.wait_for_timeout(100)
        if float(slider.input_value()) == value:
            return
    raise AssertionError(f"{label} does not take {value}")


def replies(model, **settings):
    """MoGU's reply and the base's, to be asked for while the page does not use the model."""
    return [model.reply([TALK], max_new_tokens=LONGEST, **more)[0] for more in (settings, {"mode": "base"})]


def expect_replies(page, wanted):
    for label, reply in zip(("MoGU", "Base"), wanted, strict=True):
        expect(page.get_by_label(label, exact=True)).to_have_value(reply.text)


def status(page):
    return page.locator("p[role=status]")


def picture(page, title):
    """The frame of a picture, which is as high as what it holds."""
    frame = page.locator(f'iframe[title*="{title}"]')
    frame.wait_for()
    page.wait_for_function(
        "({ clientHeight, contentDocument: { body } }) => body.offsetHeight > 100 && clientHeight >= body.offsetHeight",
        arg=frame.element_handle(),
    )
    return frame.content_frame


@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_reply_and_the_gate_is_drawn_over_the_words(
    browser, by_sequence, sequence, device, scheme, tmp_path
):
    wanted = replies(sequence)
    trace = sequence.trace(TALK, wanted[0].text)
    with opened(browser, by_sequence, device, scheme) as page:
        ask(page)
        expect_replies(page, wanted)
        score = f"probability {trace.gate[trace.prompt_length - 1]:.2f}"
        gate = picture(page, "gate's probability")
        expect(gate.locator(".scale")).to_contain_text(score)
        assert gate.locator(".text span").count() >= trace.prompt_length
        assert PROMPT in gate.locator(".text").inner_text()
        background = gate.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert background == page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Weights by layer").click()
        picture(page, "weights by layer")
        page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_threshold_decides_and_the_page_says_so(browser, by_sequence, sequence):
    wanted = replies(sequence, threshold=0.0)
    with opened(browser, by_sequence, "desktop") as page:
        set_to(page, "Threshold", 0)
        ask(page)
        expect(status(page)).to_have_text(
            f"Refused highest probability {wanted[0].score:.2f}, threshold 0.00 (0.90 within the reply)",
        )
        expect_replies(page, wanted)
        expect(picture(page, "gate's probability").locator("p").first).to_contain_text("Refused:")
        assert page.get_by_label("Hand-off").count() == page.get_by_label("Routed tokens").count() == 0


def test_untouched_the_threshold_is_the_adapter_s_own_and_not_the_rounded_one(browser):
    model = readable(gated)
    score = model.reply([TALK], max_new_tokens=LONGEST)[0].score
    # Rounded to the control's three places it would decide the other way.
    refuses = round(score, 3) > score
    gate = model.config.gate.model_copy(update={"threshold": score if refuses else nextafter(score, 1)})
    config = model.config.model_copy(update={"gate": gate})
    changed = MoguModel(model.model, model.tokenizer, model.adapter, config)
    wanted = replies(changed)
    with served(changed) as address, opened(browser, address, "desktop") as page:
        ask(page)
        outcome = "Refused" if refuses else "Answered by the base"
        expect(status(page)).to_contain_text(outcome)
        expect_replies(page, wanted)


@pytest.mark.parametrize("device", WIDTHS)
def test_of_token_routing_the_layers_are_drawn(browser, by_token, token, device, tmp_path):
    wanted = replies(token)
    with opened(browser, by_token, device) as page:
        ask(page)
        expect_replies(page, wanted)
        weights = picture(page, "weights by layer")
        rows = weights.locator("tbody tr")
        assert rows.evaluate_all("rows => rows.map(row => row.cells[0].textContent)") == [
            "mean",
            "0",
            "1",
            "2",
        ]
        assert page.locator("iframe").count() == 1
        assert page.get_by_label("Threshold").count() == 0
        page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_without_routed_tokens_mogu_is_the_base(browser, by_token, token):
    wanted = replies(token, mode="base")
    with opened(browser, by_token, "desktop") as page:
        set_to(page, "Routed tokens", 0)
        page.get_by_label("refill").check()
        ask(page)
        expect_replies(page, wanted)
        expect(picture(page, "weights by layer").locator("p").first).to_contain_text("the base model alone")


@pytest.mark.parametrize("device", WIDTHS)
def test_an_empty_prompt_is_one_clear_line(browser, by_token, token, device):
    with opened(browser, by_token, device) as page:
        page.get_by_role("button", name="Ask both").click()
        expect(status(page)).to_have_text("The prompt is empty. Write one, or take one of the examples.")
        assert page.locator("iframe").count() == 0


def test_an_example_becomes_the_prompt(browser, by_token, token):
    with opened(browser, by_token, "phone") as page:
        for example in EXAMPLES:
            page.get_by_role("button", name=example.label).click()
            expect(page.get_by_label("Prompt")).to_have_value(example.prompt)


def test_a_reply_can_be_stopped_and_another_asked_for(browser, by_token, token):
    wanted = replies(token)
    with opened(browser, by_token, "desktop") as page:
        set_to(page, "Longest reply", 512)
        ask(page, "the ring")
        expect(page.get_by_label("MoGU", exact=True)).not_to_have_value("")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Stop")).to_be_disabled()
        page.get_by_label("Longest reply").first.fill(str(LONGEST))
        ask(page)
        expect_replies(page, wanted)


def test_a_tab_that_is_closed_frees_the_model(browser, by_token, token):
    wanted = replies(token)
    with opened(browser, by_token, "desktop") as page:
        set_to(page, "Longest reply", 512)
        ask(page, "the ring")
        expect(page.get_by_label("MoGU", exact=True)).not_to_have_value("")
    with opened(browser, by_token, "desktop") as page:
        ask(page)
        expect_replies(page, wanted)
