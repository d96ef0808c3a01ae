"""The published tables and figures, one TOML file each, with the source of every row.

``index.toml`` names the papers and the order of their items; ``PAPER/ITEM.toml`` is one table or figure, and
``"PAPER/ITEM"`` is its id. TOML, because people check these files against the papers: a row stands on one line with its
digits as printed, comments are allowed, and the standard library reads it.
"""

from accord.bench.published.item import Cell, Column, Item, PublishedRow
from accord.bench.published.reading import Paper, ids, load, papers

__all__ = ["Cell", "Column", "Item", "Paper", "PublishedRow", "ids", "load", "papers"]
