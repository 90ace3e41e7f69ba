// SPDX-License-Identifier: MIT
// Draws the plots of the report, each when it comes into view; theme, keyboard and print.
"use strict";
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const boxes = [...document.querySelectorAll("[data-plot]")];
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();
  let dark = prefersDark.matches;
  let library = null;
  let queue = Promise.resolve();
  const OPTIONS = {
    responsive: true, displaylogo: false, scrollZoom: false,
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
  };

  function colours() {
    const style = getComputedStyle(root);
    const get = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: get("--line"), linecolor: get("--line"), zerolinecolor: get("--line") };
    return {
      paper_bgcolor: get("--ground"),
      plot_bgcolor: get("--ground"),
      font: { color: get("--ink"), family: "system-ui, sans-serif" },
      axis,
      // Okabe and Ito's palette: told apart by colour-blind readers, light and dark.
      colorway: dark
        ? ["#56b4e9", "#e69f00", "#3fd0a0", "#ff8a5c", "#e9a3cb", "#f0e442", "#b9c4cf"]
        : ["#0072b2", "#c26a00", "#00805a", "#c0392b", "#a0427a", "#6b6300", "#333333"],
    };
  }

  function layoutOf(plot) {
    const c = colours();
    const narrow = root.clientWidth < 640;
    const layout = structuredClone(plot.layout);
    Object.assign(layout, {
      paper_bgcolor: c.paper_bgcolor, plot_bgcolor: c.plot_bgcolor, font: c.font, colorway: c.colorway,
      margin: narrow ? { l: 52, r: layout.yaxis2 ? 46 : 8, t: 8, b: 44 } : { l: 70, r: 60, t: 12, b: 50 },
      legend: { orientation: "h", y: narrow ? -0.35 : -0.22, ...layout.legend },
      hovermode: "closest", dragmode: "zoom", autosize: true,
    });
    for (const name of ["xaxis", "yaxis", "yaxis2"]) {
      if (name !== "yaxis2" || layout.yaxis2) layout[name] = { ...c.axis, ...layout[name] };
    }
    for (const shape of layout.shapes || []) shape.line = { color: c.font.color, ...shape.line };
    return layout;
  }

  function unpacked(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
    return bytes;
  }

  async function load() {
    const packed = unpacked(document.getElementById("library").textContent);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(new Blob([await new Response(stream).arrayBuffer()], { type: "text/javascript" }));
    await new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.onload = resolve;
      script.onerror = () => reject(new Error("the plotting library did not load"));
      script.src = url;
      document.head.append(script);
    });
    URL.revokeObjectURL(url);
    performance.mark("library");
  }

  // One after the other, with a breath between, so that the first is there early.
  function draw(box) {
    if (drawn.has(box)) return queue;
    drawn.add(box);
    queue = queue.then(() => drawNow(box));
    return queue;
  }

  async function drawNow(box) {
    await (library ??= load());
    if (!box.dataset.drawn) await render(box);
    await new Promise((resolve) => setTimeout(resolve));
  }

  // Is there when this returns; what it returns is only for errors.
  function render(box) {
    const plot = plots[box.dataset.plot];
    if (plot.layout.height) box.style.minHeight = `${plot.layout.height}px`;
    const done = Plotly.newPlot(box, plot.data, layoutOf(plot), OPTIONS);
    box.dataset.drawn = "yes";
    performance.mark(`drawn-${box.dataset.plot}`);
    return done;
  }

  function restyle() {
    root.dataset.theme = dark ? "dark" : "light";
    for (const box of drawn) if (box.dataset.drawn) Plotly.react(box, box.data, layoutOf(plots[box.dataset.plot]));
  }

  function turn(box, key) {
    const layout = box._fullLayout;
    if (!layout) return false;
    if (key === "0") {
      Plotly.relayout(box, { "xaxis.autorange": layout.xaxis.autorange === "reversed" ? "reversed" : true,
        "yaxis.autorange": true });
      Plotly.react(box, box.data, layoutOf(plots[box.dataset.plot]));
      return true;
    }
    const steps = { ArrowLeft: ["xaxis", -0.2, 1], ArrowRight: ["xaxis", 0.2, 1], ArrowDown: ["yaxis", -0.2, 1],
      ArrowUp: ["yaxis", 0.2, 1], "+": ["xaxis", 0, 0.6], "=": ["xaxis", 0, 0.6], "-": ["xaxis", 0, 1 / 0.6] };
    if (!(key in steps)) return false;
    const [name, shift, zoom] = steps[key];
    const axis = layout[name];
    const [low, high] = axis.range.map((end) => axis.r2l(end));
    const middle = (low + high) / 2 + shift * (high - low);
    const half = ((high - low) / 2) * zoom;
    Plotly.relayout(box, { [`${name}.range`]: [axis.l2r(middle - half), axis.l2r(middle + half)] });
    return true;
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target).catch(fail);
  }, { rootMargin: "200px" });

  function fail(error) {
    for (const box of boxes) if (!box.dataset.drawn) box.textContent = `no plot: ${error.message}`;
  }

  for (const box of boxes) {
    watcher.observe(box);
    box.addEventListener("keydown", (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.altKey && turn(box, event.key)) event.preventDefault();
    });
  }

  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => { dark = !dark; restyle(); });
  prefersDark.addEventListener("change", (event) => { dark = event.matches; restyle(); });

  let before = dark;
  addEventListener("beforeprint", () => {
    before = dark;
    dark = false;
    restyle();
    // What is not there when this returns is not printed.
    const missing = [...boxes].filter((box) => !box.dataset.drawn);
    for (const box of missing) (window.Plotly ? render(box) : draw(box)).catch(fail);
  });
  addEventListener("afterprint", () => { dark = before; restyle(); });

  for (const copy of document.querySelectorAll("button.copy")) {
    if (!navigator.clipboard) break;
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(copy.previousElementSibling.textContent);
      copy.textContent = "copied";
    });
  }
  restyle();
  // Without a plot in sight too: whoever prints does not wait.
  if (boxes.length) (window.requestIdleCallback ?? setTimeout)(() => (library ??= load()).catch(fail));
  performance.mark("ready");
})();
