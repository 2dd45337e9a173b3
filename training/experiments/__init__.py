"""The papers' claims, checked at small scale: docs/experiments.md.

claims.py      every claim as comparisons with an expected direction, written down before the runs
host.py        one frozen host a seed      heads.py   five heads fitted together on its features
scoring.py     what they say of the same boxes, as one table (table.py)
judging.py     what the table says of claims 1 to 4, without a model
detectors.py   claims 5 and 6: detectors trained apart      regression.py   claim 7: how boxes move
bootstrap.py   intervals and verdicts        matching.py, sampled_ap.py   AP of many resamples at once

    python -m training.experiments correlation --data bccd/ --out runs/claims/bccd
"""
