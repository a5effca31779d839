"""Benchmarks of the charge, each a ratio against bare PostgreSQL inside one run on one machine.

`python -m bench` runs all of them, `python -m bench NAME…` some. Nothing here is a test: figures
depend on the machine, only the ratios can be compared. `docs/performance.md` says what they mean.
"""
