"""The pack's door for ComfyUI. This release carries no nodes yet, so it only has to import cleanly anywhere."""

NODE_CLASS_MAPPINGS: dict[str, type] = {}

__all__ = ["NODE_CLASS_MAPPINGS"]
