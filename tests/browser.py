"""Looks at a page as a reader does: in Chromium, at a desk and on a phone."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect

# A busy machine is no failure.
expect.set_options(timeout=30_000)

WIDTHS = {"desktop": 1280, "phone": 390}


@contextmanager
def opened(browser: Browser, url: str, device: str, scheme: str = "light") -> Iterator[Page]:
    """A page at the width of a device of `WIDTHS`.

    When it is left it has been no wider than the screen, no script of it has failed, and nothing was asked for but
    from where it came.
    """
    context = browser.new_context(viewport={"width": WIDTHS[device], "height": 900}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(url)
    try:
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[device]
        assert [each for each in asked if not each.startswith((url, "about:", "data:", "blob:"))] == []
        assert failed == []
    finally:
        context.close()
