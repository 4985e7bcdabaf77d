"""Figures and pages from result records. The only room that draws."""

from trimtab.report.organism import card, draw_concepts, samples_page, world_table

__all__ = ["card", "draw_concepts", "samples_page", "world_table"]
