"""What looks wrong: bills, speed, networks, resale. A queue of cases for people to decide.

finding.py   what is out of proportion, from hourly totals, bills and the records of few
cases.py     cases from found to decided, freezing and releasing lines; their only writer
sweeping.py  looks through what is new, hour by hour; only writer of AnomalySweep

Nothing here is on the way of a charge: a line is stopped by people, or not at all.
"""
