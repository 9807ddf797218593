"""Fills a template beside this file: one HTML page that needs nothing from the network."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_templates = Environment(
    loader=PackageLoader("mogu.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Fills a template.

    Args:
        template: A file name in `templates/`.
        values: What the template names; texts are escaped.

    Returns:
        A whole HTML document.
    """
    return _templates.get_template(template).render(values)
