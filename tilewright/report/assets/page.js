"use strict";
// Draws the charts of a page in its colours, fills in the charts of the chosen task, and follows a run that goes on.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const read = () => JSON.parse(document.getElementById("data").textContent);
  let data = read();
  const views = new Map();
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function theme() {
    const [paper, ink, muted, line, faint, accent, soft, band] =
      ["--paper", "--ink", "--muted", "--line", "--faint", "--accent", "--accent-soft", "--band"].map(style);
    const ramp = style("--ramp").split(",").map((c) => c.trim());
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: null, font, view: { stroke: null }, padding: 2,
      axis: {
        labelColor: muted, titleColor: muted, labelFont: font, titleFont: font, labelFontSize: 12, titleFontSize: 12,
        titleFontWeight: "normal", gridColor: line, domainColor: line, tickColor: line, titlePadding: 8, labelLimit: 200,
      },
      axisX: { grid: false, domain: true, tickCount: { expr: "ceil(width / 70)" } }, axisY: { domain: false, ticks: false, tickCount: 5 },
      legend: { labelColor: ink, titleColor: muted, labelFont: font, titleFont: font, labelFontSize: 12, titleFontSize: 12,
        titleFontWeight: "normal", symbolStrokeWidth: 2, offset: 6, labelLimit: 260 },
      range: { category: [accent, muted, ink, soft, "#8a6d3b", "#4f7d95", "#8a6aa5", "#5f8f5f", faint], ramp: ramp, heatmap: ramp },
      mark: { color: accent }, line: { strokeWidth: 2 }, text: { font, fontSize: 12, color: ink },
      // Colours by the name "color": Vega-Lite takes it for the fill or the stroke, before the colours of marks.
      style: {
        accent: { color: accent, strokeWidth: 2 }, bar: { color: accent }, faint: { color: soft },
        dot: { color: accent, filled: true, opacity: 1, size: 34 },
        faintdot: { color: muted, filled: true, opacity: 0.5, size: 22 },
        band: { color: band }, caption: { color: muted, fontSize: 11, font },
        halo: { stroke: paper, strokeWidth: 4, strokeJoin: "round", color: paper, fontSize: 11, font },
        label: { color: ink, fontSize: 12, font }, figure: { color: muted, fontSize: 12, font },
        reference: { color: muted, strokeDash: [4, 3], strokeWidth: 1 }, interval: { color: ink, strokeWidth: 2 },
        roof: { color: muted, strokeWidth: 1.2 }, edge: { color: faint, strokeWidth: 1.4 }, grid: { color: line },
        bubble: { color: accent, stroke: paper, strokeWidth: 1, opacity: 0.85 },
        node: { stroke: paper, strokeWidth: 1.2, opacity: 1 }, thread: { strokeWidth: 1 },
      },
    };
  }

  async function draw(element, spec) {
    if (!spec) return;
    const key = element.id;
    views.get(key)?.finalize();
    const result = await vegaEmbed(element, spec, {
      actions: false, ast: true, renderer: "svg", config: theme(), tooltip: { theme: "page", sanitize: plain },
    });
    views.set(key, result);
  }

  // Tooltips show names of models and tasks: as text, whatever they are.
  const holder = document.createElement("span");
  function plain(value) { holder.textContent = String(value); return holder.innerHTML; }

  function specOf(element) {
    const group = element.dataset.choice, name = element.dataset.chart;
    if (!group) return data.charts[name];
    const choice = data.choices[group];
    const key = document.getElementById("choice-" + group).value;
    const sets = Object.entries(choice.data[key] || {}).map(([set, content]) => [set, rowsOf(content)]);
    return { ...choice.charts[name], datasets: Object.fromEntries(sets) };
  }

  // Columns as rows. Of configs, each knob is a row of its own, with its place between the first and the last choice.
  function rowsOf({ columns, configs, sizes }) {
    const names = Object.keys(columns);
    const rows = (columns[names[0]] || []).map((_, n) => Object.fromEntries(names.map((name) => [name, columns[name][n]])));
    if (!configs) return rows;
    return rows.flatMap((row, n) => configs[n].map((index, k) => ({ ...row, k, v: index / (sizes[k] - 1) })));
  }

  function fillRows(group) {
    const body = document.querySelector(`[data-rows="${CSS.escape(group)}"]`);
    const key = document.getElementById("choice-" + group).value;
    body?.replaceChildren(...(data.choices[group].tables[key] || []).map((cells) => {
      const row = document.createElement("tr");
      row.replaceChildren(...cells.map((text, place) => {
        const cell = document.createElement("td");
        if (place < cells.length - 1) cell.className = "n";
        cell.textContent = text;
        return cell;
      }));
      return row;
    }));
  }

  const pause = () => new Promise((go) => { setTimeout(go); });

  // What is in the window comes first; the page can be used while the rest is drawn.
  async function drawAll(given) {
    const elements = [...(given || document.querySelectorAll("[data-chart]"))];
    const near = (each) => { const box = each.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; };
    const [first, rest] = [elements.filter(near), elements.filter((each) => !near(each))];
    for (const element of first) await draw(element, specOf(element));
    performance.mark("open");
    for (const element of rest) {
      await pause();
      await draw(element, specOf(element));
    }
  }

  function start() {
    for (const group of Object.keys(data.choices || {})) {
      fillRows(group);
      document.getElementById("choice-" + group).addEventListener("change", () => {
        fillRows(group);
        drawAll(document.querySelectorAll(`[data-chart][data-choice="${CSS.escape(group)}"]`));
      });
    }
    return drawAll();
  }

  function follow() {
    const source = new EventSource(data.live + "/events" + location.search);
    let busy = false, again = false;
    async function refresh() {
      if (busy) { again = true; return; }
      busy = true;
      try {
        const answer = await fetch(data.live + "/update" + location.search);
        if (!answer.ok) return;
        const update = await answer.json();
        const open = [...document.querySelectorAll("details")].map((each) => each.open);
        const chosen = [...document.querySelectorAll("select")].map((each) => [each.id, each.value]);
        const focused = document.activeElement?.id;
        const top = scrollY;
        // The server's template has escaped every text in it.
        document.getElementById("page").innerHTML = update.body;
        data = update.data;
        document.querySelectorAll("details").forEach((each, n) => { each.open = Boolean(open[n]); });
        for (const [id, value] of chosen) {
          const select = document.getElementById(id);
          if (select && [...select.options].some((option) => option.value === value)) select.value = value;
        }
        if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
        scrollTo({ top, behavior: "instant" });
        await start();
        if (!data.live) source.close();
      } finally {
        busy = false;
        if (again) { again = false; refresh(); }
      }
    }
    source.addEventListener("update", refresh);
  }

  start().then(() => {
    performance.mark("drawn");
    document.documentElement.dataset.ready = "yes";
  });
  // Links and forms keep the token and the filters of the address.
  for (const link of document.querySelectorAll("a[data-keep]")) link.search = location.search;
  for (const form of document.querySelectorAll("form")) {
    const token = new URLSearchParams(location.search).get("token");
    if (token) form.append(Object.assign(document.createElement("input"), { type: "hidden", name: "token", value: token }));
  }
  dark.addEventListener("change", () => drawAll());
  if (data.live) follow();
})();
