"""Versions of plans and rate cards, from a draft to the last day on sale.

terms.py      what a draft says, as it is kept
comparing.py  in what two versions differ, in words
drafting.py   draft, asked for, approved, scheduled, on sale, retired
"""
