"""How the demo page looks.

Okabe and Ito's blue and vermilion, which colour-blind readers can tell apart; what is
unknown is hatched besides, and said in words. The other colours are Gradio's own, so
that the page follows the reader's choice of light or dark; its colour of what is less
important is too pale to read, and mixed anew.
"""

from __future__ import annotations

STYLE = """
.html-container { padding: 0 !important; }
.pmal { --known: #0072B2; --reject: #D55E00;
  --quiet: color-mix(in srgb, var(--body-text-color) 72%, transparent);
  line-height: 1.45;
  color: var(--body-text-color); overflow-wrap: anywhere; }
.pmal-known { --verdict: var(--known); }
.pmal-unknown { --verdict: var(--reject); }
.pmal-waiting { padding: 48px 20px; text-align: center; border-radius: 8px;
  border: 1px dashed var(--border-color-primary);
  color: var(--quiet); }
.pmal-verdict { padding: 12px 18px; border-left: 8px solid var(--verdict);
  border-radius: 6px; background: var(--background-fill-secondary); }
.pmal-unknown .pmal-verdict { border-left-style: double; }
.pmal-name { font-size: 44px; font-weight: 700; line-height: 1.15; }
.pmal-heading { margin-top: 22px; font-size: 16px; font-weight: 600; }
.pmal-note { font-size: 13px; color: var(--quiet); }
.pmal-gauge { position: relative; height: 22px; margin: 12px 0 4px;
  border-radius: 4px; background: var(--border-color-primary); }
.pmal-zone { height: 100%; border-radius: 4px; background: var(--verdict); }
.pmal-unknown .pmal-zone { background: repeating-linear-gradient(45deg,
  var(--reject) 0 7px, #e8985c 7px 11px); }
.pmal-mark { position: absolute; top: -6px; bottom: -6px; width: 3px;
  margin-left: -1.5px; background: var(--body-text-color); }
.pmal-scale { position: relative; display: flex; justify-content: space-between;
  margin-bottom: 6px; font-size: 12px; color: var(--quiet); }
.pmal-at { position: absolute; transform: translateX(-50%); font-weight: 600;
  color: var(--body-text-color); }
.pmal-classes { display: grid; grid-template-columns: minmax(32px, max-content) 1fr
  max-content; gap: 5px 12px; align-items: center; margin-top: 8px; }
.pmal-class { max-width: 190px; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.pmal-track { height: 12px; border-radius: 3px;
  background: var(--border-color-primary); }
.pmal-track i { display: block; height: 100%; border-radius: 3px;
  background: var(--known); }
.pmal-percent { text-align: right; font-variant-numeric: tabular-nums; }
.pmal-prototypes, .pmal-pair { display: flex; flex-wrap: wrap; gap: 14px;
  margin-top: 10px; }
.pmal figure { width: 112px; margin: 0; }
.pmal-pair figure { width: 136px; }
.pmal figure img { width: 100%; aspect-ratio: 1; margin: 0; border-radius: 4px;
  object-fit: contain; image-rendering: pixelated;
  border: 1px solid var(--border-color-primary); }
.pmal figcaption { margin-top: 4px; font-size: 13px; }
.pmal figcaption small { display: block; font-size: 12px;
  color: var(--quiet); }
.pmal-file { margin-top: 4px; font-weight: 600; }
.pmal-error { padding: 2px 18px 8px; border-radius: 6px;
  border: 2px dashed var(--reject); background: var(--background-fill-secondary); }
.pmal-error .pmal-heading { margin-top: 12px; }
.pmal-error p { margin: 6px 0; }
.pmal-model { margin-top: 8px; padding: 0 18px 14px; border-radius: 6px;
  background: var(--background-fill-secondary); }
.pmal-model dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px;
  margin: 10px 0 0; }
.pmal-model .pmal-heading { padding-top: 14px; margin-top: 0; }
.pmal-model dt { font-weight: 600; }
.pmal-model dd { margin: 0; }
"""
