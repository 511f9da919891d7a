"""What a node says in a line under itself, as the host's own nodes do."""

from __future__ import annotations

from typing import Any

from server import PromptServer


def tell(node: Any, text: str) -> None:
    """Show ``text`` under the node with this execution id, on the page that runs the graph."""
    server = PromptServer.instance
    server.send_progress_text(text, str(node), server.client_id)
