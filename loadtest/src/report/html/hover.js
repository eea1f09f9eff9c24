// Shows the values of the nearest point of a plot, and everything when it is printed. Without it the page is complete, only not as exact.
"use strict";
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
for (const figure of document.querySelectorAll("figure.plot")) {
  const data = figure.querySelector("script");
  const chart = figure.querySelector("svg.chart");
  if (!data || !chart) continue;
  const { xs, labels, lines } = JSON.parse(data.textContent);
  const cursor = chart.querySelector(".cursor");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);

  const nearest = (x) => xs.reduce((best, other, at) => (Math.abs(other - x) < Math.abs(xs[best] - x) ? at : best), 0);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const scale = box.width / chart.viewBox.baseVal.width;
    const at = nearest((event.clientX - box.left) / scale);
    cursor.setAttribute("transform", `translate(${xs[at]} 0)`);
    cursor.style.visibility = "visible";
    tip.textContent = [labels[at], ...lines.map((line) => `${line.name}: ${line.texts[at]}`)].join("\n");
    tip.hidden = false;
    const left = xs[at] * scale + 14;
    tip.style.left = `${left + tip.offsetWidth > box.width ? xs[at] * scale - tip.offsetWidth - 14 : left}px`;
    tip.style.top = `${box.top - figure.getBoundingClientRect().top + 30}px`;
  });
  chart.addEventListener("pointerleave", () => {
    cursor.style.visibility = "hidden";
    tip.hidden = true;
  });
}
