"""Hatchery: an appliance that hatches VM disk clones from templates."""

__version__ = "0.1.0"
