// What every page of famba promises, in headless Chromium: it is small, loads nothing, says nothing on the console, fits
// its window and has no fault that axe finds. Screenshots go to a folder.
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { launch } from "./browser.mjs";

const [file, folder] = process.argv.slice(2).map((path) => resolve(path));
const url = pathToFileURL(file).href;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const broken = [];

export function expect(holds, what, detail = "") {
  console.log(`${holds ? "ok    " : "BROKEN"} ${what}${!holds && detail ? `: ${detail}` : ""}`);
  if (!holds) broken.push(what);
}

export const save = (name, data) => writeFileSync(join(folder, name), Buffer.from(data, "base64"));

mkdirSync(folder, { recursive: true });
expect(statSync(file).size < 2e6, "under 2 MB", `${statSync(file).size} bytes`);
export const browser = await launch(process.env.CHROMIUM ?? "chromium");
export const page = await browser.open();
const said = [];
const requests = [];
page.on("Runtime.consoleAPICalled", ({ type, args }) => said.push(`${type}: ${args.map((a) => a.value).join(" ")}`));
page.on("Runtime.exceptionThrown", ({ exceptionDetails }) => said.push(exceptionDetails.exception?.description));
page.on("Log.entryAdded", ({ entry }) => said.push(`${entry.source}: ${entry.text}`));
page.on("Network.requestWillBeSent", ({ request }) => requests.push(request.url));

export async function show(width, scheme, height = 900) {
  await page.call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 500 });
  const features = [{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: "reduce" }];
  await page.call("Emulation.setEmulatedMedia", { features });
  const loaded = page.next("Page.loadEventFired");
  await page.call("Page.navigate", { url });
  await loaded;
}

// Nothing is said, nothing is fetched, nothing sticks out; axe finds nothing, in light and dark, with everything open.
for (const width of [390, 1440]) {
  for (const scheme of ["light", "dark"]) {
    await show(width, scheme);
    const over = await page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    expect(over <= 0, `${width} px, ${scheme}: no horizontal scroll`, `${over} px too wide`);
    const { data } = await page.call("Page.captureScreenshot", { captureBeyondViewport: true });
    save(`${width}-${scheme}.png`, data);
    await page.run("document.querySelectorAll('details').forEach((d, i) => { d.open = i < 20; })");
    const opened = await page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    expect(opened <= 0, `${width} px, ${scheme}: none with its details open`, `${opened} px too wide`);
    await page.call("Runtime.evaluate", { expression: axe });
    const { violations } = JSON.parse(await page.run("axe.run().then((found) => JSON.stringify(found))"));
    const told = violations.map((v) => `${v.id} (${v.nodes.length}): ${v.nodes[0].html} ${v.nodes[0].failureSummary}`);
    expect(!violations.length, `${width} px, ${scheme}: axe`, told.join("\n"));
  }
}

// No figure is cut: each lies inside the page, and its text is large enough to read, on a telephone, too.
for (const width of [390, 1280]) {
  await show(width, "light");
  const outside = await page.run(`[...document.querySelectorAll("figure svg")].filter((svg) => {
    const box = svg.getBoundingClientRect();
    return box.left < 0 || box.right > document.documentElement.clientWidth || box.width < 300;
  }).map((svg) => svg.id).join()`);
  expect(!outside, `${width} px: no figure is cut`, outside);
  const small = await page.run(`[...document.querySelectorAll("figure svg text")].filter((text) =>
    text.textContent.trim() && text.getBoundingClientRect().height < 6).map((text) => text.closest("svg").id).join()`);
  expect(!small, `${width} px: no text is smaller than 6 px`, small);
}

// The last promises; ends with exit status 1 if any was broken.
export async function end() {
  const strangers = requests.filter((request) => request !== url && !request.startsWith("data:"));
  expect(!strangers.length, "no request leaves the page", strangers.join(", "));
  expect(!said.length, "nothing on the console", said.join("\n"));
  await browser.close();
  console.log(broken.length ? `${broken.length} broken` : "all promises kept");
  process.exit(broken.length ? 1 : 0);
}
