"""Results of earlier stages, and what libraries compiled for a device."""
