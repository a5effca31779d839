"""What subscribers, and minors' guardians, set for their own safety.

`keeping` takes what is said, `steps` keeps it for good, `alerts` tells of lines that were reached,
`minors` refuses what costs more than a minor may spend at once. What whoever asks for units has to
know of it is in subscriptions/guards.py.
"""
