"""All that is kept about a user's account, as a file for the user: one ZIP of JSON and CSV.

`keeping` orders, hands out and forgets files; `writing` says what is in one. Nothing is computed
here that the books do not hold.
"""
