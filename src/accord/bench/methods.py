"""The methods that the supervised experiments train when none are named."""

METHODS = (
    "stl",
    "ls",
    "si",
    "rlw",
    "dwa",
    "uw",
    "mgda",
    "pcgrad",
    "graddrop",
    "cagrad",
    "imtl-g",
    "nash-mtl",
    "fairgrad",
    "famo",
)
"""The rows of Nash-MTL's tables, then FairGrad and FAMO; ``stl`` stands for one run a task."""
