"""Measurements, one question a file; each prints ratios taken in one run, on one thread unless it says otherwise."""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):  # read when torch and NumPy are first imported, which is after this
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
