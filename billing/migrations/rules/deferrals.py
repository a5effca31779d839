"""Revenue that is earned as units burn, and the rule by which it is."""

# Half up in whole fen: numeric division alone would round twice.
RULES = """
ALTER TABLE billing_deferral ADD CONSTRAINT deferral_earned_as_burned
    CHECK (earned = least(div(200 * net * burned + granted, 2 * granted) / 100, net - credited));
"""
