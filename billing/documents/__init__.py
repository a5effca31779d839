"""Bills as people read them."""
