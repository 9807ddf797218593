"""The page itself, on Gradio: what can be set, and where each answer stands. Loads nothing from the network."""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import PurePath
from typing import Any

import gradio as gr
from fastapi import FastAPI

from mogu.errors import MoguError
from mogu.generation import MoguModel
from mogu.serving.page.asking import Asker, Question, Verdict
from mogu.serving.page.examples import EXAMPLES

# The colours of the pictures (report/templates/page.html.j2), which stand in frames on this page.
CSS = """
:root { --surface: #fff; --ink: #1c2024; --faint: #60646c; --line: #d9d9e0; --empty: #f0f0f3; --safe: #d9600b; }
.dark { --surface: #16181b; --ink: #edeef0; --faint: #a3a8b0; --line: #363a3f; --empty: #212529; --safe: #f08a3c; }
.dark iframe { color-scheme: dark; }
.gradio-container { max-width: 76rem !important; margin: 0 auto !important; }
.gradio-container .html-container { padding: 0; }
.gradio-container h1 { margin: 0; font-size: 1.35rem; line-height: 1.3; }
.gradio-container p { margin: .25rem 0; max-width: 44rem; }
.faint { color: var(--faint); font-size: .875rem; }
.status { min-height: 1.5em; font-variant-numeric: tabular-nums; }
.status strong { padding: .15em .6em; margin-right: .25em; border-radius: 1em; background: var(--empty); }
.status .refused { background: color-mix(in oklab, var(--empty), var(--safe) 65%); }
iframe { display: block; width: calc(100% + 2rem); margin: 0 -1rem; border: 0; }
"""

# A frame is as high as what it holds, also after a turn of the phone.
FIT = (
    "const page = this.contentDocument.body;"
    "new ResizeObserver(() => this.style.height = page.offsetHeight + 'px').observe(page)"
)

LONGEST = 512
"""The longest reply that can be asked for, in tokens."""

HOW = "MoGU answers first, then the base."


def page_app(model: MoguModel) -> FastAPI:
    """The page of one model.

    Args:
        model: nothing else may use it at the same time.

    Returns:
        An application that serves the page at ``/``.
    """
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        _blocks(model),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        css=CSS,
        theme=_theme(),
    )
    return app


def _theme() -> gr.themes.Base:
    # Named fonts would be fetched; these are the reader's own.
    colours = {
        "body_text_color": "var(--ink)",
        "body_text_color_subdued": "var(--faint)",
        "block_info_text_color": "var(--faint)",
        "input_placeholder_color": "var(--faint)",
        "background_fill_primary": "var(--surface)",
        "block_background_fill": "var(--surface)",
        "block_border_color": "var(--line)",
        "border_color_primary": "var(--line)",
        "block_label_text_color": "var(--faint)",
        "block_title_text_color": "var(--faint)",
        "button_primary_background_fill": "var(--ink)",
        "button_primary_background_fill_hover": "color-mix(in oklab, var(--ink), var(--surface) 15%)",
        "button_primary_text_color": "var(--surface)",
        "input_background_fill": "var(--empty)",
        "button_secondary_background_fill": "var(--empty)",
        "button_secondary_text_color": "var(--ink)",
        "slider_color": "var(--ink)",
    }
    both = colours | {f"{name}_dark": value for name, value in colours.items()}
    # The page's outermost colour is set where its variables are not known yet.
    both |= {"body_background_fill": "#fff", "body_background_fill_dark": "#16181b"}
    base = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return base.set(**both)


def _blocks(model: MoguModel) -> gr.Blocks:
    asker, name = Asker(model), PurePath(model.config.base.name).name
    with gr.Blocks(title="MoGU", analytics_enabled=False) as blocks:
        gr.HTML(f'<h1>MoGU and its base, side by side</h1><p class="faint">{escape(name)}</p>')
        prompt = gr.Textbox(label="Prompt", lines=3, max_lines=12, placeholder="What would a user ask?")
        gr.Examples(
            [[each.prompt] for each in EXAMPLES],
            [prompt],
            example_labels=[each.label for each in EXAMPLES],
        )
        with gr.Accordion("Settings", open=False):
            settings = _settings(model)
        with gr.Row():
            ask = gr.Button("Ask both", variant="primary", scale=4, min_width=160)
            stop = gr.Button("Stop", scale=1, min_width=80, interactive=False)
        status = gr.HTML(_status(HOW))
        with gr.Row():
            mogu, base = (
                gr.Textbox(label=label, lines=6, max_lines=30, min_width=320, interactive=False)
                for label in ("MoGU", "Base")
            )
        gate = gr.HTML(visible=False)
        # With a gate they only say again what it decided, layer by layer.
        with gr.Accordion("Weights by layer", open=model.config.gate is None, visible=False) as layers:
            weights = gr.HTML()

        def answer(given: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
            explained = False
            yield {
                ask: gr.Button(interactive=False),
                stop: gr.Button(interactive=True),
                status: _status(HOW),
                mogu: "",
                base: "",
                gate: gr.HTML(visible=False),
                layers: gr.Accordion(visible=False),
            }
            try:
                for answers in asker.ask(_question(model, given[prompt], settings, given)):
                    changes: dict[Any, Any] = {mogu: answers.mogu, base: answers.base}
                    if answers.verdict and not explained:
                        changes |= {
                            status: _verdict(answers.verdict),
                            gate: _frame(answers.gate, "The gate's probability over the words"),
                            layers: gr.Accordion(visible=True),
                            weights: _frame(answers.weights, "The variants' weights by layer and token"),
                        }
                        explained = True
                    yield changes
            except MoguError as error:
                yield {status: _status(f"<b>{escape(str(error))}</b>")}

        def ready() -> dict[Any, Any]:
            return {ask: gr.Button(interactive=True), stop: gr.Button(interactive=False)}

        asked = gr.on(
            [ask.click, prompt.submit],
            answer,
            {prompt, *settings.values()},
            [ask, stop, status, mogu, base, gate, layers, weights],
            concurrency_limit=1,
            # The browser may take a run that was just stopped for one that still runs, and drop the next click.
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
        )
        stopped = stop.click(None, cancels=[asked], api_visibility="private")
        for ended in (asked, stopped):
            ended.then(ready, None, [ask, stop], show_progress="hidden", api_visibility="private")
    return blocks


def _settings(model: MoguModel) -> dict[str, Any]:
    """The controls by the field of a question that they set: only what the adapter has."""
    gate, m = model.config.gate, model.config.routed_tokens
    controls: dict[str, Any] = {}
    if gate is not None:
        controls["threshold"] = gr.Slider(
            0,
            1,
            round(gate.threshold, 3),
            step=0.001,
            label="Threshold",
            info=f"MoGU refuses from this probability on. The adapter's own is {gate.threshold:.3f}.",
        )
    else:
        controls["routed_tokens"] = gr.Slider(
            0,
            LONGEST,
            LONGEST if m is None else m,
            step=1,
            label="Routed tokens",
            info="How many reply tokens the routers weigh; 0 is the base. "
            f"The adapter's own: {'the whole reply' if m is None else m}.",
        )
        controls["handoff"] = gr.Radio(
            ["reuse", "refill"],
            value="reuse",
            label="Hand-off",
            info="After them the base goes on from the cache, or reads everything again.",
        )
    controls["max_new_tokens"] = gr.Slider(8, LONGEST, 96, step=8, label="Longest reply, in tokens")
    controls["system"] = gr.Textbox("", label="System message", info="Both are given it. Empty: none.")
    return controls


def _question(
    model: MoguModel, prompt: str, settings: Mapping[str, Any], given: Mapping[Any, Any]
) -> Question:
    values = {name: given[control] for name, control in settings.items()}
    gate = model.config.gate
    if gate is not None and values["threshold"] == round(gate.threshold, 3):
        values["threshold"] = None  # untouched: the exact one
    return Question(prompt, **values)


def _verdict(verdict: Verdict) -> str:
    kind = ' class="refused"' if verdict.refused else ""
    return _status(f"<strong{kind}>{verdict.outcome}</strong> {verdict.figures}")


def _status(html: str) -> str:
    return f'<p class="status" role="status">{html}</p>'


def _frame(page: str | None, title: str) -> Any:
    """A whole page of its own within this one; hidden where there is none."""
    if page is None:
        return gr.HTML(visible=False)
    return gr.HTML(f'<iframe title="{title}" srcdoc="{escape(page)}" onload="{FIT}"></iframe>', visible=True)
