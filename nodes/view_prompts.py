"""View Prompts: what to build, in words for each side of the object."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..distill3d.errors import Distill3DError
from ..distill3d.prompts import DEFAULT_SECTORS, ViewPrompts, format_sectors, parse_sectors
from .host.conditioning import encode
from .types import Prompts, PromptsType
from .words import in_words, input_name


class ViewPromptsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ViewPrompts",
            display_name="View Prompts",
            category="Distill3D",
            description=(
                "One prompt, with the words that belong to each side of the object (front, side, back, overhead). They "
                "keep a face from growing on every side."
            ),
            search_aliases=["prompt", "view dependent", "janus", "negative prompt", "text to 3d"],
            inputs=[
                io.Clip.Input("clip", tooltip="Text encoder of the MODEL that Distill Loss gets; LoRA on it counts."),
                io.String.Input(
                    "prompt",
                    default="a red cube",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip='One object, without view words: "a DSLR photo of a corgi". The bundled tiny prior knows '
                    "twenty kinds of toy objects in eight colours: a blue torus, a striped red cube, a yellow mug.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to move away from, for instance blurry, oversaturated. Empty is the usual choice. It "
                    "gets no view words. Read by SDS and ASD, by CSD with a negative weight or Perp-Neg, and by "
                    "TBSD and SDS-Bridge with an empty modifier.",
                ),
                io.String.Input(
                    "sectors",
                    default=format_sectors(DEFAULT_SECTORS),
                    multiline=True,
                    advanced=True,
                    tooltip="One side a line: name | azimuth low..high | elevation low..high | words. "
                    "Degrees; azimuth 0 "
                    "is the front. The first covers every view, later lines override earlier ones. Narrow the front "
                    "(-30..30) when an object has two faces.",
                ),
            ],
            outputs=[
                PromptsType.Output("prompts", display_name="prompts", tooltip="Wire it to Distill Loss."),
                io.Conditioning.Output(
                    "front",
                    display_name="front",
                    tooltip="The front view's prompt as CONDITIONING, to test it with a KSampler.",
                ),
                io.Conditioning.Output(
                    "negative_out", display_name="negative", tooltip="The negative prompt as CONDITIONING."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None, sectors: str | None = None) -> bool | str:
        """Before any model is loaded; what comes by a wire is asked when it has come."""
        try:
            own = DEFAULT_SECTORS if sectors is None else parse_sectors(sectors)
            ViewPrompts("anything" if prompt is None else prompt, "", own)
        except Distill3DError as error:
            return error.told(input_name)
        return True

    @classmethod
    @in_words
    def execute(cls, clip: Any, prompt: str, negative: str, sectors: str) -> io.NodeOutput:
        views = ViewPrompts(prompt, negative, parse_sectors(sectors))
        known = {text: encode(clip, text) for text in dict.fromkeys((*views.texts, views.negative))}
        names = views.names
        front = views.texts[names.index("front") if "front" in names else 0]
        return io.NodeOutput(Prompts(views, clip, known), known[front], known[views.negative])
