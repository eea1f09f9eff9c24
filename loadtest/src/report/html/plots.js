// Draws the plots of a report with uPlot: the pointer shows values in all plots over time, dragging zooms them, a double
// click resets the zoom, and a click on a line's name hides it.
"use strict";
(() => {
  const HEIGHT = 236;
  /** Height of the names of phases above a plot over time. */
  const TOP = 20;
  const FONT = "11px system-ui, sans-serif";
  const COLOURS = 8;
  /** The steps of an axis whose unit is not decimal. */
  const STEPS = {
    clock: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400],
    bytes: [...Array(5).keys()].flatMap((unit) => [1, 2, 5, 10, 20, 50, 100, 200, 500].map((step) => step * 1024 ** unit)),
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const colourOf = (line) => colour(`c${line.colour % COLOURS}`);
  const isDashed = (line) => line.dashed || line.colour >= COLOURS;

  /** Returns the next of …, 1, 2, 5, 10, … in a direction. */
  function round(value, up) {
    const decade = 10 ** Math.floor(Math.log10(value));
    const steps = [1, 2, 5, 10].map((step) => step * decade);
    return up ? steps.find((step) => step >= value * 0.999999) : steps.findLast((step) => step <= value * 1.000001);
  }

  /** From zero, or a round number on a logarithmic axis, to above the highest visible value. */
  function rangeOf({ logarithmic }) {
    if (!logarithmic) return (_, low, high) => uPlot.rangeNum(Math.min(low ?? 0, 0), high || 1, 0.1, true);
    return (_, low, high) => {
      const [from, to] = [round(low ?? 0.1, false), round(high ?? 1, true)];
      return [from, to > from ? to : from * 10];
    };
  }

  /** Decades, as many as there is space for; or 1, 2 and 5 of each if they are few. */
  function logSplits(u, axis, from, to) {
    const ticks = [];
    const few = to / from < 500;
    const [length, label] = axis === 0 ? [u.bbox.width, 62] : [u.bbox.height, 24];
    const every = Math.max(Math.ceil((label * uPlot.pxRatio * Math.log10(to / from)) / (length || 1)), 1);
    for (let decade = Math.floor(Math.log10(from)); decade <= Math.log10(to); decade += few ? 1 : every) {
      for (const step of few ? [1, 2, 5] : [1]) ticks.push(Number(`${step}e${decade}`));
    }
    return ticks.filter((tick) => tick >= from * 0.999 && tick <= to * 1.001);
  }

  function axisOf(plot, scale) {
    const { unit, logarithmic } = plot[scale];
    const axis = {
      scale,
      stroke: colour("quiet"),
      font: FONT,
      grid: { stroke: colour("rule"), width: 1, show: scale === "y" },
      ticks: { stroke: colour("rule"), width: 1, size: 4 },
      border: { show: true, stroke: colour("quiet"), width: 1 },
      values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : SHOW[unit](tick))),
    };
    if (STEPS[unit]) axis.incrs = STEPS[unit];
    if (logarithmic) Object.assign(axis, { splits: logSplits, filter: (_, ticks) => ticks });
    if (scale === "y") return { ...axis, size: widthOfLabels, space: 34 };
    return { ...axis, size: 30, space: 64, ...(plot.marked && { splits: () => plot.xs }) };
  }

  function widthOfLabels(u, texts) {
    u.ctx.font = FONT;
    return Math.ceil(12 + Math.max(44, ...(texts ?? []).map((text) => u.ctx.measureText(text).width)));
  }

  /** A value between two gaps has no line, so it gets a point. */
  function alone(u, series) {
    const ys = u.data[series];
    return ys.flatMap((y, at) => (y !== null && (ys[at - 1] ?? null) === null && (ys[at + 1] ?? null) === null ? [at] : []));
  }

  function seriesOf(plot, line) {
    const stroke = colourOf(line);
    const series = { label: line.name, scale: "y", stroke, width: 1.6, spanGaps: false };
    series.points = { show: true, size: 6, stroke, fill: stroke };
    if (isDashed(line)) series.dash = [5, 4];
    if (!plot.marked || line.dashed) series.points.filter = alone;
    return series;
  }

  /** Draws the phases behind the lines, with as much of their names as fits above them. */
  function drawBands(plot) {
    return (u) => {
      const { ctx, bbox } = u;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, 0, bbox.width, bbox.top + bbox.height);
      ctx.clip();
      ctx.font = FONT.replace("11", 11 * uPlot.pxRatio);
      ctx.textBaseline = "bottom";
      ctx.textAlign = "left";
      plot.bands.forEach((band, at) => {
        const [from, to] = [band.from, band.to].map((x) => u.valToPos(x, "x", true));
        const left = Math.max(from, bbox.left);
        const width = Math.min(to, bbox.left + bbox.width) - left;
        if (!(width > 0)) return;
        ctx.globalAlpha = band.faint ? 0.45 : 1;
        ctx.fillStyle = colour(at % 2 ? "band-other" : "band");
        ctx.fillRect(left, bbox.top, width, bbox.height);
        ctx.globalAlpha = 1;
        ctx.fillStyle = colour("quiet");
        ctx.fillText(shortened(ctx, band.name, width - 6), left + 3, bbox.top - 3);
      });
      ctx.restore();
    };
  }

  function shortened(ctx, text, width) {
    if (ctx.measureText(text).width <= width) return text;
    let fits = text.length - 1;
    while (fits > 2 && ctx.measureText(`${text.slice(0, fits)}…`).width > width) fits -= 1;
    return fits > 2 ? `${text.slice(0, fits)}…` : "";
  }

  /** Shows the values at the pointer, in the plot that it is over. */
  function showValues(plot, tip) {
    return (u) => {
      const { idx, left } = u.cursor;
      tip.hidden = idx === null || idx === undefined || left < 0 || !u.over.matches(":hover");
      if (tip.hidden) return;
      const x = plot.xs[idx];
      const band = plot.bands.find(({ from, to }) => from < x && x <= to);
      const shown = plot.lines.filter((_, at) => u.series[at + 1].show);
      const texts = shown.map(({ name, ys }) => `${name}: ${ys[idx] === null ? NONE : SHOW[plot.y.unit](ys[idx])}`);
      tip.textContent = [SHOW[plot.x.unit](x) + (band ? ` · ${band.name}` : ""), ...texts].join("\n");
      const at = u.valToPos(x, "x");
      const fits = at + tip.offsetWidth + 14 < u.over.clientWidth;
      tip.style.left = `${fits ? at + 14 : Math.max(at - tip.offsetWidth - 14, -u.over.offsetLeft)}px`;
    };
  }

  function optionsOf(plot, width, tip) {
    const swatch = (line) => (isDashed(line) ? `repeating-linear-gradient(90deg, ${colourOf(line)} 0 6px, #0000 6px 10px)` : colourOf(line));
    const isTime = plot.x.unit === "clock";
    return {
      width,
      height: HEIGHT,
      padding: [plot.bands.length ? TOP : 10, 24, 0, 0],
      scales: {
        x: { time: false, distr: plot.x.logarithmic ? 3 : 1, range: wholeOf(plot) },
        y: { distr: plot.y.logarithmic ? 3 : 1, range: rangeOf(plot.y) },
      },
      axes: [axisOf(plot, "x"), axisOf(plot, "y")],
      series: [{}, ...plot.lines.map((line) => seriesOf(plot, line))],
      legend: { live: false, markers: { width: 0, fill: (_, at) => swatch(plot.lines[at - 1]) } },
      cursor: {
        y: false,
        points: { size: 7 },
        drag: { x: true, y: false, dist: 6 },
        ...(isTime && { sync: { key: "time", scales: ["x", null], setSeries: false } }),
      },
      hooks: { drawClear: [drawBands(plot)], setCursor: [showValues(plot, tip)] },
    };
  }

  /** The whole range: from the start to the end of a run; for a few sizes, with space on either side. Or the zoomed range. */
  function wholeOf({ x, xs, bands, marked }) {
    const [first, last] = [xs[0], xs.at(-1)];
    const space = marked ? Math.max(last / first, 10) ** 0.06 : 1;
    const whole = x.unit === "clock" ? [Math.min(0, first), Math.max(last, ...bands.map(({ to }) => to))] : [first / space, last * space];
    return (_, from, to) => (from <= first && to >= last ? whole : [from, to]);
  }

  function draw(figure) {
    const plot = JSON.parse(figure.querySelector("script").textContent);
    const chart = figure.querySelector(".chart");
    const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
    const data = [plot.xs, ...plot.lines.map((line) => line.ys)];
    figure.plot?.destroy();
    figure.plot = new uPlot(optionsOf(plot, chart.clientWidth, tip), data, chart);
    figure.plot.over.append(tip);
  }

  const figures = [...document.querySelectorAll("figure.plot")].filter((figure) => figure.querySelector(".chart"));
  const redraw = () => figures.forEach(draw);
  const widths = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const { plot } = target.closest("figure");
      if (plot && target.clientWidth !== plot.width) plot.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  });
  redraw();
  figures.forEach((figure) => widths.observe(figure.querySelector(".chart")));
  // Colours are drawn, so a change of the colour scheme needs a redraw.
  for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", redraw);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
})();
