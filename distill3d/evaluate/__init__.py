"""Judging fields against exact truth, without a learned classifier: see ``truth`` for what is asked."""

from .controls import SolidField, grey_ball, perfect, two_faced
from .observation import Observation, observe
from .thresholds import Thresholds
from .truth import Check, Judgement, accepts, judge, parse_object, parse_prompt, world_of

__all__ = [
    "Check",
    "Judgement",
    "Observation",
    "SolidField",
    "Thresholds",
    "accepts",
    "grey_ball",
    "judge",
    "observe",
    "parse_object",
    "parse_prompt",
    "perfect",
    "two_faced",
    "world_of",
]
