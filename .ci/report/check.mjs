// node check.mjs REPORT.html FOLDER: open a report in headless Chromium, hold it to what it promises, and write
// screenshots and the printed page to FOLDER. Exit status 1 if a promise is broken.
import { browser, end, expect, page, save, show } from "./promises.mjs";

// The keyboard alone reaches charts, sorting and copying.
await show(1440, "light");
const stops = [];
const focused = `(() => { const e = document.activeElement; return e === document.body ? "body" :
  e.matches(".mark") ? "mark" : e.matches(".sort") ? "sort" : e.matches("[data-copy], [data-copy-of]") ? "copy" : e.matches(".skip") ? "skip" : "other"; })()`;
const tips = [];
for (let i = 0; i < 1500; i++) {
  await page.press("Tab");
  const stop = await page.run(focused);
  if (stop === "body") break;
  stops.push(stop);
  if (stop === "mark") tips.push(await page.run("!tip.hidden && tip.textContent.length > 10"));
}
const charts = await page.run("document.querySelectorAll('figure svg:has(.mark)').length");
const sorts = await page.run("[...document.querySelectorAll('.sort')].filter((sort) => sort.checkVisibility()).length");
const tabbed = (kind) => stops.filter((stop) => stop === kind).length;
expect(stops[0] === "skip", "the first stop skips to the content", stops[0]);
expect(tabbed("mark") === charts && charts >= 7, "tab stops once at every chart", `${tabbed("mark")} of ${charts}`);
expect(tips.length > 0 && tips.every(Boolean), "a chart in focus shows a tooltip");
expect(tabbed("sort") === sorts && sorts > 0, "tab reaches every sort button", `${tabbed("sort")} of ${sorts}`);
expect(tabbed("copy") > 5, "tab reaches the copy buttons", `${tabbed("copy")}`);

await page.run("document.querySelector('#figure-tokens .mark').focus()");
const before = await page.run("tip.textContent");
await page.press("ArrowRight");
const after = await page.run("tip.textContent");
expect(before !== after && after.length > 10, "an arrow key goes to the next mark", after);
await page.press("End");
const last = "document.activeElement === [...document.querySelector('#figure-tokens svg').querySelectorAll('.mark')].at(-1)";
expect(await page.run(last), "End goes to the last mark");
await page.press("Escape");
expect(await page.run("tip.hidden"), "Escape hides the tooltip");
await page.run("document.querySelector('figure a.mark').focus()");
await page.press("Enter");
await page.run("new Promise((done) => setTimeout(done, 100))");
expect(await page.run("document.querySelector(':target')?.tagName === 'TR'"), "Enter leads to the line of the table");

const mouse = await page.run(`(() => { const m = document.querySelector("#figure-accuracy_time .mark");
  m.scrollIntoView({ block: "center", behavior: "instant" }); const b = m.getBoundingClientRect();
  return { x: b.x + b.width / 2, y: b.y + b.height / 2, label: m.getAttribute("aria-label").replaceAll("\\n", "") }; })()`);
await page.call("Input.dispatchMouseEvent", { type: "mouseMoved", x: mouse.x, y: mouse.y });
const hovered = await page.run("tip.hidden ? '' : tip.textContent");
expect(hovered === mouse.label, "pointing at a mark shows its numbers", hovered);
const { data: tooltip } = await page.call("Page.captureScreenshot");
save("tooltip.png", tooltip);

// Sorting puts the exact numbers in order, both ways; a missing one stays last.
const column = `[...document.querySelectorAll("#summary tbody tr")].map((line) => line.cells[3].dataset.value)`;
const unsorted = await page.run(column);
await page.run("document.querySelectorAll('#summary .sort')[3].focus()");
for (const [key, direction, sign] of [["Enter", "descending", -1], [" ", "ascending", 1]]) {
  await page.press(key);
  const sorted = await page.run(column);
  const right = [...unsorted].sort((a, b) => sign * (a - b));
  expect(sorted.join() === right.join(), `the summary is sorted, ${direction}`, sorted.join());
  const states = await page.run("[...document.querySelectorAll('#summary th')].map((th) => th.ariaSort).filter(Boolean).join()");
  expect(states === direction, `aria-sort says ${direction}`, states);
}

// Copying puts the table's LaTeX and CSV on the clipboard.
await browser.send("Browser.grantPermissions", { permissions: ["clipboardReadWrite", "clipboardSanitizedWrite"] });
await page.call("Page.bringToFront");
for (const [kind, start] of [["LaTeX", "\\begin{table*}"], ["CSV", "model,strategy,n,"]]) {
  const named = `"Copy ${kind}: " + document.querySelector("#summary-caption").textContent`;
  await page.run(`[...document.querySelectorAll("[data-copy]")].find((b) => b.ariaLabel === ${named}).focus()`);
  await page.press("Enter");
  await page.run("new Promise((done) => setTimeout(done, 200))");
  const text = await page.run("navigator.clipboard.readText()");
  expect(text.startsWith(start), `copies the summary as ${kind}`, text.slice(0, 60));
}

// A link to a row opens it.
await page.run("document.querySelector('#trainings a').click()");
await page.run("new Promise((done) => setTimeout(done, 100))");
expect(await page.run("document.querySelector('details:target').open"), "a link to a row opens it");

// What a row's button copies is the row.
await page.run("document.querySelector('details:target [data-copy-of]').focus()");
await page.press("Enter");
await page.run("new Promise((done) => setTimeout(done, 200))");
const row = JSON.parse(await page.run("navigator.clipboard.readText()"));
expect(row.version === 2 && row.id === row.cell.model + "-" + row.cell.strategy + "-s" + row.cell.seed, "copies a row", row.id);

// A mark in focus looks otherwise than one that is not: a keyboard shows where it is.
await show(1440, "light");
const figures = await page.run("[...document.querySelectorAll('figure:has(.mark)')].map((figure) => figure.id).join()");
const unpainted = [];
for (const id of figures.split(",")) {
  const mark = `document.querySelector("#${id} .mark")`;
  const box = await page.run(`(() => { ${mark}.scrollIntoView({ block: "center", behavior: "instant" });
    const b = ${mark}.getBoundingClientRect();
    return { x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1 }; })()`);
  const shots = [];
  for (const action of ["blur", "focus"]) {
    await page.run(`${mark}.${action}({ preventScroll: true })`);
    await page.run("tip.hidden = true");
    shots.push((await page.call("Page.captureScreenshot", { clip: box, captureBeyondViewport: true })).data);
  }
  if (shots[0] === shots[1]) unpainted.push(id);
}
expect(!unpainted.length, "a mark in focus is painted", unpainted.join(", "));

// Print: whole pages, no controls.
const { data: pdf } = await page.call("Page.printToPDF", { preferCSSPageSize: true, printBackground: true });
save("print.pdf", pdf);
expect(pdf.length > 20_000, "prints to PDF");

await end();
