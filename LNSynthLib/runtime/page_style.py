"""The colors of pages that people open, light or dark as their browser asks for."""

# Each of text and quiet is read well (contrast of 4.5 or more) on each of page, raised and shade.
COLORS = """
:root{color-scheme:light dark;--page:#fafaf8;--text:#222;--quiet:#595959;--line:#d8d8d4;--raised:#fff;--shade:#efefeb}
@media (prefers-color-scheme:dark){
:root{--page:#16171a;--text:#e6e6e3;--quiet:#b0b1af;--line:#3c3e42;--raised:#202226;--shade:#2a2c30}}
body{background:var(--page);color:var(--text)}
a{color:inherit}
:focus-visible{outline:3px solid #3a86c8;outline-offset:2px}
.banner{background:#be1e28;color:#fff}
"""
