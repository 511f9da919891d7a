"""Where the ComfyUI nodes live: the only code that may import the host."""
