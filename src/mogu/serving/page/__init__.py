"""The page: one prompt to MoGU and to its base, side by side, and why MoGU answers as it does."""

from mogu.serving.page.layout import page_app

__all__ = ["page_app"]
