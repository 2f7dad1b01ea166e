"""Figures inside a page: SVG that follows the page's light or dark theme."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from typing import TYPE_CHECKING

from gossamer import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAVY = 600_000
"""Characters of SVG above which a figure becomes a PNG."""
THEME = {
    plots.INK: "var(--ink)",
    plots.MUTED: "var(--muted)",
    plots.GRID: "var(--grid)",
    plots.SURFACE: "var(--surface)",
    **{hue: f"var(--h{i})" for i, hue in enumerate(plots.HUES)},
}
"""Colours of the figures that follow the page's light or dark theme."""


def embedded(figure: Figure, label: str) -> str:
    """A figure as HTML: SVG whose colours follow the page's light or dark theme, or a PNG where that would be heavy."""
    import matplotlib

    buffer = io.StringIO()
    salt = hashlib.blake2b(label.encode(), digest_size=6).hexdigest()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    label = html.escape(label, quote=True)
    if len(text) > HEAVY:
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=160, facecolor=plots.SURFACE)
        return f'<img alt="{label}" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    text = re.sub(r"#[0-9a-f]{6}\b", lambda match: THEME.get(match[0], match[0]), text)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
