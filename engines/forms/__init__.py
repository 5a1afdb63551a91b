"""Forms that are equal in value, of which a target's measurement chooses."""
