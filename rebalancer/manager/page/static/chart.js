// Draws objects and bytes a second of the last hour, by the samples that live.js hands on.
"use strict";
(() => {
  const KEPT_S = 3600;
  // A rate is a mean over so many seconds, for objects come to their end by the assignment.
  const MEAN_S = 10;
  const HEIGHT = 150;
  const UNITS = ["", "k", "M", "G", "T"];
  const section = document.querySelector("[data-chart]");
  const home = section && section.querySelector("[data-keep]");
  if (!home || !window.uPlot) return;

  let samples = [];
  let plots = [];

  function short(value) {
    let unit = 0;
    while (value >= 1000 && unit < UNITS.length - 1) {
      value /= 1000;
      unit += 1;
    }
    const digits = value >= 100 || value === Math.round(value) ? 0 : value >= 10 ? 1 : 2;
    return [value.toFixed(digits), UNITS[unit]];
  }

  function rates(column) {
    let from = 0;
    return samples.map(([at, ...values], index) => {
      while (from + 1 < index && at - samples[from + 1][0] >= MEAN_S) from += 1;
      const [before, ...old] = samples[from];
      const past = at - before;
      return past > 0 ? Math.max(0, (values[column] - old[column]) / past) : null;
    });
  }

  const data = (column) => [samples.map(([at]) => at), rates(column)];

  function figure(title, unit, column) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const box = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const name = document.createElement("span");
    const value = document.createElement("b");
    const place = document.createElement("div");
    name.textContent = title;
    caption.append(name, value);
    box.append(caption, place);
    home.firstChild.append(box);
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${title} over the last hour; the figures above are the same`);
    const axis = {
      stroke: color("--muted"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false },
    };
    const plot = new uPlot(
      {
        width: place.clientWidth,
        height: HEIGHT,
        tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
        legend: { show: false },
        cursor: { sync: { key: "rates" }, y: false, drag: { setScale: false } },
        scales: { y: { range: (_plot, _least, most) => [0, most > 0 ? most * 1.1 : 1] } },
        axes: [
          { ...axis, space: 70, size: 26, values: [
            [3600, "{HH}:{mm}", null, null, null, null, null, null, 1],
            [60, "{HH}:{mm}", null, null, null, null, null, null, 1],
            [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1],
          ] },
          { ...axis, size: 46, space: 36, values: (_plot, ticks) => ticks.map((tick) => short(tick).join("")) },
        ],
        series: [
          {},
          {
            stroke: color("--accent"),
            fill: color("--accent") + "22",
            width: 1.5,
            points: { show: false },
          },
        ],
        hooks: {
          setCursor: [(self) => tell(self)],
          setData: [(self) => tell(self)],
        },
      },
      data(column),
      place,
    );
    function tell(self) {
      const index = self.cursor.idx ?? self.data[0].length - 1;
      const found = self.data[1][index];
      if (found === null || found === undefined) return;
      const [number, prefix] = short(found);
      value.textContent = `${number} ${prefix}${unit}/s`.replace(" /", "/");
    }
    tell(plot);
    return { plot, place, column };
  }

  function build() {
    for (const { plot } of plots) plot.destroy();
    const charts = document.createElement("div");
    charts.className = "charts";
    home.replaceChildren(charts);
    plots = [figure("Objects a second", "", 0), figure("Bytes a second", "B", 1)];
  }

  document.addEventListener("samples", ({ detail }) => {
    const last = samples.length ? samples[samples.length - 1][0] : 0;
    const fresh = detail.filter(([at]) => at > last);
    if (!fresh.length) return;
    samples.push(...fresh);
    const since = samples[samples.length - 1][0] - KEPT_S;
    while (samples[0][0] < since) samples.shift();
    if (samples.length < 3) return;
    if (!plots.length) {
      section.hidden = false;
      build();
    }
    for (const { plot, column } of plots) plot.setData(data(column));
  });

  new ResizeObserver(() => {
    for (const { plot, place } of plots)
      if (place.clientWidth && place.clientWidth !== plot.width)
        plot.setSize({ width: place.clientWidth, height: HEIGHT });
  }).observe(home);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (plots.length) build();
  });
})();
