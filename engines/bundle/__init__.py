"""The folder that a build leaves."""
