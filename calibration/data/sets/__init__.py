"""Data sets with a layout of their own: those that come built in, and COCO's."""
