"""The look of the report's page: light or dark as the reader's system is, and print."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6068; --paper: #ffffff;
  --line: #d5d8dd; --band: #f4f6f8; --link: #00568f; --good: #00664a; --bad: #a63c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e9; --soft: #a3a9b2;
  --paper: #16181b; --line: #3a3f46; --band: #1f2226; --link: #7cc0f0;
  --good: #4fd0a5; --bad: #f59a6b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 5rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1.12rem; margin: 2.2rem 0 .5rem; }
p, ul { max-width: 48rem; }
a { color: var(--link); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap;
  gap: .2rem 1.2rem; }
code, pre { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--band); padding: .75rem 1rem; border-radius: 6px;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 1rem 0 1.5rem; }
.wide:focus-visible { outline: 2px solid var(--link); outline-offset: 3px; }
table { border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .45rem;
  max-width: 48rem; }
th, td { padding: .36rem .8rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th:first-child, th.words, td.words { text-align: left; }
td.words { white-space: normal; min-width: 8rem; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody tr:hover { background: var(--band); }
tr.main > * { font-weight: 650; }
tr.quoted > * { font-style: italic; color: var(--soft); }
td small { display: block; color: var(--soft); font-weight: 400; }
.good, td .good { color: var(--good); font-weight: 600; }
.bad, td .bad { color: var(--bad); font-weight: 600; }
.missing { color: var(--soft); font-style: italic; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--link); }
details.experiment { border: 1px solid var(--line); border-radius: 6px;
  padding: .5rem 1rem; }
details.experiment h3 { margin-top: 1rem; }
figure { margin: 1.5rem 0 2.5rem; break-inside: avoid; }
figure h3 { margin-top: 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); max-width: 48rem; margin-top: .5rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; } .wide { overflow: visible; } table { font-size: 8pt; }
  th, td { padding: .2rem .35rem; } h2, h3 { break-after: avoid; }
  tr, figure { break-inside: avoid; } }
"""
