"use strict";
document.documentElement.classList.add("js");

// Tooltips: a mark's label, shown beside it on hover and focus; Escape hides it.
const tip = document.getElementById("tip");

function show(mark) {
  const lines = mark.getAttribute("aria-label").split("\n");
  tip.replaceChildren(...lines.map((text, i) => {
    const line = document.createElement(i ? "div" : "strong");
    line.textContent = text;
    return line;
  }));
  tip.hidden = false;
  const box = mark.getBoundingClientRect();
  const left = box.left + box.width / 2 - tip.offsetWidth / 2;
  const above = box.top - tip.offsetHeight - 10;
  const inside = Math.min(Math.max(left, 8), document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.left = `${inside + window.scrollX}px`;
  tip.style.top = `${(above > 8 ? above : box.bottom + 10) + window.scrollY}px`;
}

function hide() {
  tip.hidden = true;
}

// A mark's title becomes its label, so that the browser shows no second tooltip. A figure is one stop of the tab key.
for (const figure of document.querySelectorAll("figure svg")) {
  figure.querySelectorAll(".mark").forEach((mark, i) => {
    const title = mark.querySelector("title");
    mark.setAttribute("aria-label", title.textContent);
    if (mark.tagName !== "a") mark.setAttribute("role", "img");
    mark.setAttribute("tabindex", i ? "-1" : "0");
    title.remove();
  });
}

for (const mark of document.querySelectorAll(".mark")) {
  mark.addEventListener("pointerenter", () => show(mark));
  mark.addEventListener("pointerleave", hide);
  mark.addEventListener("focus", () => show(mark));
  mark.addEventListener("blur", hide);
  mark.addEventListener("click", (event) => {
    if (event.pointerType === "touch") event.preventDefault(); // a finger reads the numbers and does not jump
  });
}

// Arrow keys go from mark to mark.
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
  const mark = document.activeElement?.closest(".mark");
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const jump = { Home: 0, End: -1 }[event.key];
  if (!mark || (step === undefined && jump === undefined)) return;
  const marks = [...mark.closest("svg").querySelectorAll(".mark")];
  const next = jump === undefined ? marks[marks.indexOf(mark) + step] : marks.at(jump);
  event.preventDefault();
  if (!next) return;
  mark.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
});

// Sorting: numbers by their exact value, largest first; words by the alphabet; what is missing comes last.
function order(column, up) {
  return (a, b) => {
    const [x, y] = [a, b].map((line) => line.cells[column]);
    const [p, q] = [x, y].map((cell) => cell.dataset.value);
    if (p === undefined && q === undefined) return (up ? 1 : -1) * x.textContent.localeCompare(y.textContent, "en");
    if (p === undefined || q === undefined) return p === undefined ? 1 : -1;
    return (up ? 1 : -1) * (p - q);
  };
}

for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = button.closest("table").tBodies[0];
    const was = head.getAttribute("aria-sort");
    const up = was ? was === "descending" : !head.classList.contains("r");
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort(order(head.cellIndex, up)));
  });
}

// Copying; where the page may not write to the clipboard (plain http), through a selection.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

const said = document.getElementById("said");
for (const button of document.querySelectorAll("button[data-copy], button[data-copy-of]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    await copy(button.dataset.copy ?? document.getElementById(button.dataset.copyOf).textContent);
    button.focus();
    button.textContent = "Copied";
    said.textContent = `${label.replace("Copy ", "")} copied`;
    setTimeout(() => { button.textContent = label; }, 1600);
  });
}

// A link to a row opens it, and one to a claim opens the group that it stands in.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target?.closest("details");
  if (folded) folded.open = true;
}
window.addEventListener("hashchange", open);
open();
