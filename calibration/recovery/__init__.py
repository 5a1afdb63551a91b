"""Accuracy that quantisation lost and that can be had back without training."""
