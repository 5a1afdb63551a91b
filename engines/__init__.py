"""A deploy graph becomes something that runs: one file per target, timing, bundle."""
