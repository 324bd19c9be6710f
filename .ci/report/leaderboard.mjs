// node leaderboard.mjs SITE/index.html FOLDER: as check.mjs, of the page that famba publish writes.
import { end, expect, page, show } from "./promises.mjs";

await show(1440, "light");
const lines = "[...document.querySelectorAll('section.group tbody tr')]";
const visible = `${lines}.filter((line) => line.checkVisibility())`;
const said = "document.getElementById('shown').textContent";
const every = await page.run(`${lines}.length`);
expect(every > 1 && (await page.run(`${visible}.length`)) === every, "every line is shown at first");
expect((await page.run(said)) === `${every} of ${every} lines`, "their number is said", await page.run(said));

// The keyboard alone reaches search, filters, sorting, rows and charts.
const focused = `(() => { const e = document.activeElement; return e === document.body ? "body" : e.matches("#words") ? "search" :
  e.matches(".filters select") ? "filter" : e.matches(".sort") ? "sort" : e.matches(".mark") ? "mark" :
  e.matches("td a") ? "row" : e.matches(".skip") ? "skip" : "other"; })()`;
const stops = [];
for (let i = 0; i < 5000; i++) {
  await page.press("Tab");
  const stop = await page.run(focused);
  if (stop === "body") break;
  stops.push(stop);
}
expect(stops[0] === "skip", "the first stop skips to the content", stops[0]);
for (const [kind, selector] of [["search", "#words"], ["filter", ".filters select"], ["sort", ".sort"], ["row", "td a"], ["mark", "figure svg:has(.mark)"]]) {
  const there = await page.run(`document.querySelectorAll("${selector}").length`);
  const reached = stops.filter((stop) => stop === kind).length;
  expect(there > 0 && reached === there, `tab reaches every ${kind}`, `${reached} of ${there}`);
}

const ringed = `[...document.querySelectorAll(".mark.fits")].every((mark) =>
  document.querySelector(mark.getAttribute("href")).checkVisibility())`;

// Each filter leaves the lines that have its value, and their marks are ringed; all come back.
for (const [i, name] of (await page.run("[...document.querySelectorAll('.filters select')].map((s) => s.dataset.column)")).entries()) {
  const select = `document.querySelectorAll(".filters select")[${i}]`;
  const choose = (value) => page.run(`${select}.value = ${value}; ${select}.dispatchEvent(new Event("change"))`);
  const wrong = [];
  let sum = 0;
  for (let option = 1; option < (await page.run(`${select}.options.length`)); option++) {
    await choose(`${select}.options[${option}].value`);
    const left = await page.run(`${visible}.length`);
    if (!left || !(await page.run(said)).startsWith(`${left} of`)) wrong.push(`choice ${option} is said to leave others than ${left}`);
    if (!(await page.run(ringed))) wrong.push(`choice ${option} rings marks of hidden lines`);
    sum += left;
  }
  expect(sum === every && !wrong.length, `the filter of ${name}: every line has one value`, [`${sum} of ${every}`, ...wrong].join("; "));
  await choose('""');
}
await page.run("document.getElementById('words').focus()");
await page.call("Input.insertText", { text: "no such method" });
expect((await page.run(`${visible}.length`)) === 0, "a word that is nowhere leaves no line");
expect((await page.run("document.querySelectorAll('.mark.fits').length")) === 0, "and no ring");
await page.run("document.getElementById('every').focus()");
await page.press("Enter");
expect((await page.run(`${visible}.length`)) === every, "all lines come back");

// Sorting puts the exact numbers in order, both ways.
const values = `[...document.querySelector("section.group tbody").rows].map((line) => Number(line.cells[3].dataset.value))`;
const first = (await page.run(values)).join();
const sort = "document.querySelector('section.group').querySelectorAll('.sort')[3]";
expect(first === (await page.run(values)).sort((a, b) => b - a).join(), "the most accurate come first", first);
await page.run(`${sort}.focus()`);
await page.press("Enter");
await page.press("Enter");
const up = await page.run(values);
expect(up.join() === [...up].sort((a, b) => a - b).join(), "sorted by top-1, ascending", up.join());

// A mark leads to its line.
await page.run("document.querySelector('figure a.mark').focus()");
await page.press("Enter");
await page.run("new Promise((done) => setTimeout(done, 100))");
expect(await page.run("document.querySelector(':target')?.tagName === 'TR'"), "Enter on a mark leads to the line of the table");

// Without JavaScript it is a plain sorted table.
await page.call("Emulation.setScriptExecutionDisabled", { value: true });
await show(390, "light");
await page.call("Emulation.setScriptExecutionDisabled", { value: false });
expect((await page.run(`${visible}.length`)) === every, "without JavaScript every line is shown");
expect(!(await page.run("document.querySelector('.filters').checkVisibility()")), "and no filter that would do nothing");
await end();
