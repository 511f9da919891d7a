"""Distill3D: text to textured 3D objects by score distillation. Pure torch; knows nothing of any host."""

__version__ = "0.1.0"
