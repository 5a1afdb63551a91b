"""The sample networks: their definitions, and what is known of each."""
