"""From a request to bundles."""
