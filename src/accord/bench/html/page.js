"use strict";
// Sorting, singling out a series, and the choice of light or dark. The page reads without it.

const root = document.documentElement;

function remembered() {
  try { return localStorage.getItem("accord-theme"); } catch (error) { return null; } // storage may be forbidden
}

function remember(theme) {
  try { localStorage.setItem("accord-theme", theme); } catch (error) { /* then it holds for this visit */ }
}

const before = remembered();
if (before === "dark" || before === "light") root.dataset.theme = before;

document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll("[data-script]")) element.hidden = false;
  theme();
  for (const table of document.querySelectorAll("table.comparison")) sortable(table);
  for (const legend of document.querySelectorAll("ul.legend")) pickable(legend);
});

function theme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => { button.textContent = dark() ? "Light page" : "Dark page"; };
  button.hidden = false;
  show();
  system.addEventListener("change", show);
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remember(root.dataset.theme);
    show();
  });
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const rows = [...body.rows];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.first || "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      body.append(...sorted(rows, column, order, head.dataset.kind === "text"));
      say(`Sorted by ${head.textContent.trim()}, ${order}`);
    });
  });
}

// Numbers by size and texts by letter; what has no number comes last in either order, equals keep their order.
function sorted(rows, column, order, text) {
  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => {
    const cell = row.cells[column];
    if (text) return cell.textContent;
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  return [...rows].sort((one, other) => {
    const a = value(one), b = value(other);
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (text ? a.localeCompare(b) : a - b);
  });
}

function pickable(legend) {
  for (const item of legend.children) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...item.childNodes);
    button.setAttribute("aria-pressed", "false");
    button.dataset.key = item.dataset.key;
    item.append(button);
    button.addEventListener("click", () => pick(button.getAttribute("aria-pressed") === "true" ? null : item.dataset.key));
  }
}

// Dim all series of a kind (methods, tasks, starts) but one, in every figure; null ends it.
function pick(key) {
  const kind = key && family(key);
  for (const element of document.querySelectorAll(".series")) {
    element.classList.toggle("dim", key !== null && family(element.dataset.key) === kind && element.dataset.key !== key);
  }
  for (const button of document.querySelectorAll(".legend button")) {
    button.setAttribute("aria-pressed", String(button.dataset.key === key));
  }
  for (const row of document.querySelectorAll(".comparison tbody tr")) {
    row.classList.toggle("picked", key !== null && row.dataset.key === key);
  }
}

function family(key) {
  return key === "stl" ? "m" : key[0];
}

function say(text) {
  document.getElementById("said").textContent = text;
}
