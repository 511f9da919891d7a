"""A mesh as USDZ: https://openusd.org/release/spec_usdz.html.

A zip archive without compression, every file on a multiple of 64 bytes, the first of them the scene.

The scene is text (usda), which every USD reader takes. y up, metres, texture coordinates from the lower left corner,
UsdPreviewSurface with an sRGB base colour and a raw normal map (https://openusd.org/release/spec_usdpreviewsurface.html).
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .color import srgb_to_linear
from .gltf import ROUGHNESS
from .images import encode_image
from .types import SurfaceMesh

ALIGNMENT = 64
LOCAL_HEADER = 30
EXTRA_ID = 0x1986
"""Header id of the padding field, as the USD toolset writes it."""
DATE = (1980, 1, 1, 0, 0, 0)


def encode_usdz(mesh: SurfaceMesh, metadata: dict[str, Any], *, double_sided: bool) -> bytes:
    """The archive's bytes; the metadata goes to the scene's ``customLayerData``."""
    files: list[tuple[str, bytes]] = [("object.usda", _scene(mesh, metadata, double_sided).encode())]
    for name, pixels in _pictures(mesh):
        files.append((f"textures/{name}.png", encode_image(pixels)))
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            info = zipfile.ZipInfo(name, DATE)
            gap = -(sink.tell() + LOCAL_HEADER + len(name)) % ALIGNMENT
            if 0 < gap < 4:
                gap += ALIGNMENT
            if gap:
                info.extra = EXTRA_ID.to_bytes(2, "little") + (gap - 4).to_bytes(2, "little") + bytes(gap - 4)
            archive.writestr(info, data)
    return sink.getvalue()


def _pictures(mesh: SurfaceMesh) -> list[tuple[str, NDArray]]:
    if mesh.texture is None or mesh.uvs is None:
        return []
    found: list[tuple[str, NDArray]] = [("color", mesh.texture)]
    if mesh.normal_map is not None:
        found.append(("normal", mesh.normal_map))
    if mesh.occlusion is not None:
        found.append(("occlusion", mesh.occlusion[..., None].repeat(3, -1)))
    return found


def _tuples(array: NDArray, digits: int) -> str:
    return ", ".join("(" + ", ".join(f"{v:.{digits}g}" for v in row) + ")" for row in array.tolist())


def _scene(mesh: SurfaceMesh, metadata: dict[str, Any], double_sided: bool) -> str:
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    # a JSON text is a valid usda string but for the delimiter it needs
    note = json.dumps(json.dumps(metadata)) if metadata else '""'
    if mesh.texture is None or mesh.uvs is None:
        linear = srgb_to_linear(np.clip(mesh.colors.astype(np.float64), 0, 1))
        paint = f'color3f[] primvars:displayColor = [{_tuples(linear, 5)}] (interpolation = "vertex")'
    else:
        st = np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], -1)
        paint = f'texCoord2f[] primvars:st = [{_tuples(st, 8)}] (interpolation = "vertex")'
    return f"""#usda 1.0
(
    customLayerData = {{ string creator = "Distill3D"
        string metadata = {note} }}
    defaultPrim = "Object"
    metersPerUnit = 1
    upAxis = "Y"
)

def Xform "Object" (kind = "component")
{{
    def Mesh "Mesh" (prepend apiSchemas = ["MaterialBindingAPI"])
    {{
        uniform bool doubleSided = {int(double_sided)}
        uniform token subdivisionScheme = "none"
        float3[] extent = [{_tuples(np.stack([low, high]), 9)}]
        int[] faceVertexCounts = [{", ".join(["3"] * len(mesh.faces))}]
        int[] faceVertexIndices = [{", ".join(map(str, mesh.faces.reshape(-1).tolist()))}]
        point3f[] points = [{_tuples(mesh.vertices, 9)}]
        normal3f[] normals = [{_tuples(mesh.normals, 6)}] (interpolation = "vertex")
        {paint}
        rel material:binding = </Object/Material>
    }}

{_material(mesh)}
}}
"""


def _material(mesh: SurfaceMesh) -> str:
    names = [name for name, _ in _pictures(mesh)]
    color = (
        "color3f inputs:diffuseColor.connect = </Object/Material/color.outputs:rgb>"
        if names
        else "color3f inputs:diffuseColor.connect = </Object/Material/vertex.outputs:result>"
    )
    inputs = [color, f"float inputs:roughness = {ROUGHNESS}", "float inputs:metallic = 0"]
    if "normal" in names:
        inputs.append("normal3f inputs:normal.connect = </Object/Material/normal.outputs:rgb>")
    if "occlusion" in names:
        inputs.append("float inputs:occlusion.connect = </Object/Material/occlusion.outputs:r>")
    shaders = [_shader("surface", "UsdPreviewSurface", [*inputs, "token outputs:surface"])]
    if not names:
        reader = ['string inputs:varname = "displayColor"', "float3 outputs:result"]
        shaders.append(_shader("vertex", "UsdPrimvarReader_float3", reader))
    else:
        reader = ['string inputs:varname = "st"', "float2 outputs:result"]
        shaders.append(_shader("st", "UsdPrimvarReader_float2", reader))
    shaders += [_texture(name) for name in names]
    body = "\n".join(shaders)
    return f"""    def Material "Material"
    {{
        token outputs:surface.connect = </Object/Material/surface.outputs:surface>
{body}
    }}"""


def _texture(name: str) -> str:
    lines = [
        f"asset inputs:file = @textures/{name}.png@",
        "float2 inputs:st.connect = </Object/Material/st.outputs:result>",
        f'token inputs:sourceColorSpace = "{"sRGB" if name == "color" else "raw"}"',
        'token inputs:wrapS = "clamp"',
        'token inputs:wrapT = "clamp"',
    ]
    if name == "normal":
        lines += ["float4 inputs:scale = (2, 2, 2, 1)", "float4 inputs:bias = (-1, -1, -1, 0)"]
    return _shader(name, "UsdUVTexture", [*lines, f"{'float' if name == 'occlusion' else 'float3'} outputs:"
                                           f"{'r' if name == 'occlusion' else 'rgb'}"])  # fmt: skip


def _shader(name: str, kind: str, lines: list[str]) -> str:
    body = "\n".join(f"            {line}" for line in [f'uniform token info:id = "{kind}"', *lines])
    return f'        def Shader "{name}"\n        {{\n{body}\n        }}'
