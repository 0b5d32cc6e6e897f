"""Names of files and classes as an enemy would choose them, for reports, worklists and tables."""

from __future__ import annotations

HOSTILE = (
    "<script>window.hit=1</script>",
    "</script><script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    '"><svg onload=window.hit=1>',
    "' onmouseover='window.hit=1",
    "javascript:window.hit=1",
    "=cmd|'/c calc'!A1",
    "{{ 7*7 }}{% raw %}",
    "${window.hit=1}",
    "`;window.hit=1;`",
    "-->\n<script>window.hit=1</script>",
    "<!--<script>",
    "]]><script>window.hit=1</script>",
    "\u202egnp.exe\u202c",
    "line\nbreak\ttab\x00\x07",
    "\u2028window.hit=1\u2029",
    "&lt;script&gt;window.hit=1&lt;/script&gt;",
    "&#60;script&#62;",
    "x" * 4096,
    "\udcff\udc80 undecodable",
    "https://example.invalid/x.png",
    "//example.invalid/x.js",
    "data:text/html,<script>window.hit=1</script>",
    "<iframe srcdoc='<script>parent.hit=1</script>'>",
    "<base href='https://example.invalid/'>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid'>",
    "<style>*{display:none}</style>",
    "</style><style>body{display:none}</style>",
    "</title><script>window.hit=1</script>",
    "__proto__",
)


def hostile_names(count: int = 60) -> list[str]:
    """The list above as it is and inside a path."""
    return [*HOSTILE, *(f"test/{name}/IMG.jpg" for name in HOSTILE)][:count]
