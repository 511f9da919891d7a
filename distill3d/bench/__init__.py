"""Measurements anyone can repeat; each module has one ``run`` that returns plain numbers."""
