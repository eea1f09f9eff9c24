// Formats numbers for people, like units.rs; the axes need it for values that are not in a report.
"use strict";
const NONE = "–";

/** Three significant digits, more if they are before the decimal point, with thousands separated. */
function number(value) {
  const size = Math.abs(value);
  const decimals = [99.95, 9.995, 0.9995, 0.09995, 0.009995].findIndex((least) => size >= least);
  const text = value.toFixed(size === 0 ? 0 : decimals < 0 ? 5 : decimals);
  const [whole, rest] = text.split(".");
  const kept = (rest ?? "").replace(/0+$/, "");
  return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (kept && `.${kept}`);
}

function seconds(value) {
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 0.0009995) return `${number(value * 1e6)} µs`;
  if (size < 0.9995) return `${number(value * 1e3)} ms`;
  return size < 599.5 ? `${number(value)} s` : `${number(value / 60)} min`;
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; Math.abs(value) >= 999.5 && unit + 1 < units.length; unit += 1) value /= 1024;
  return `${number(value)} ${units[unit]}`;
}

/** `2:05`, `1:02:05`; tenths only if they are not zero. */
function clock(value) {
  const tenths = Math.round(value * 10);
  const [whole, tenth] = [Math.floor(tenths / 10), tenths % 10];
  const two = (n) => String(n).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours > 0) return `${hours}:${two(minutes)}:${two(whole % 60)}`;
  return `${minutes}:${two(whole % 60)}${tenth === 0 || whole >= 60 ? "" : `.${tenth}`}`;
}

/** Converts odds: 10 is `90 %`, 1,000 is `99.9 %`. Near 100 the distance to 100 matters, and keeps two digits. */
function tail(odds) {
  const percent = 100 - 100 / odds;
  const decimals = Math.min(Math.max(1 - Math.floor(Math.log10(100 / odds) + 1e-9), 0), 7);
  return `${Number(percent.toFixed(decimals))} %`;
}

/** The formatters by the report's names for units. */
const SHOW = {
  clock,
  tail,
  seconds,
  bytes,
  per_second: (value) => `${number(value)}/s`,
  share: (value) => `${number(value * 100)} %`,
  number,
};
