"""How the pages of all reports look."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0; }
.note { color: #666; font-size: .9rem; }
.warning { background: #fff4d6; border-left: 4px solid #e0a800; padding: .4rem .8rem; }
.verdict { font-weight: 600; border-left: 4px solid; padding: .4rem .8rem; }
.good { background: #e6f4ea; border-color: #2e7d32; }
.check { background: #fff4d6; border-color: #e0a800; }
.failed { background: #fdecea; border-color: #c62828; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #888; font-weight: 600; }
td.text { text-align: left; word-break: break-word; }
img { width: 100%; height: auto; }
.orange { color: #c55f00; font-weight: 600; } .blue { color: #0066c2; font-weight: 600; }
"""
