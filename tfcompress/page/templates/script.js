"use strict";

// What a printed page holds between its margins, at 96 dots an inch.
const PRINTED_WIDTH = 680;
const charts = [...document.querySelectorAll(".chart")];

for (const place of charts) {
  const figure = JSON.parse(place.querySelector("script").textContent);
  // A finger that scrolls the page must not zoom the chart.
  figure.layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  Plotly.newPlot(place, figure.data, figure.layout, {
    responsive: true,
    displayModeBar: false,
  });
}

function resize(width) {
  for (const place of charts) {
    Plotly.relayout(place, width ? { width, autosize: false } : { width: null, autosize: true });
  }
}

addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  resize(PRINTED_WIDTH);
});
addEventListener("afterprint", () => resize(null));

// Headline: one file's cards at a time.
for (const choice of document.querySelectorAll(".choice[data-of]")) {
  const buttons = [...choice.querySelectorAll("button")];
  const panels = [...document.querySelectorAll(`[data-panel="${choice.dataset.of}"]`)];
  const show = (index) => {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === index));
    panels.forEach((panel, i) => (panel.hidden = i !== index));
  };
  buttons.forEach((button, i) => button.addEventListener("click", () => show(i)));
  show(buttons.length - 1);
}

// Layers: only those that changed.
for (const button of document.querySelectorAll("button[data-filter]")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    const rows = document.getElementById(button.dataset.filter).tBodies[0].rows;
    for (const row of rows) row.hidden = on && row.dataset.changed !== "yes";
  });
}

// A click on a heading sorts by that column; numbers, largest first.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const numeric = head.dataset.numeric !== undefined;
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const value = (row) => {
        const cell = row.cells[column];
        const text = cell.dataset.value ?? cell.textContent.trim();
        return numeric ? (text === "" ? -Infinity : Number(text)) : text;
      };
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => sign * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
      table.tBodies[0].append(...rows);
    });
  });
}
