"""Figures and pages from plain lists and rows. Knows no model and never imports torch."""
