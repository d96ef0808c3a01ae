"""One page with all that a store says about an experiment: readable by anyone, from one file, without a network."""

from accord.bench.html.page import page, write_page

__all__ = ["page", "write_page"]
