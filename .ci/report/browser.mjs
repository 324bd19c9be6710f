// Headless Chromium, driven through its DevTools protocol over a pipe: no port, no driver, no package.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export async function launch(executable) {
  const profile = mkdtempSync(join(tmpdir(), "famba-report-"));
  const arguments_ = [
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", `--user-data-dir=${profile}`,
    ...(process.getuid() === 0 ? ["--no-sandbox"] : []), "about:blank",
  ];
  const child = spawn(executable, arguments_, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const [, , , toBrowser, fromBrowser] = child.stdio;
  const gone = new Promise((resolve) => child.once("exit", resolve));
  const waiting = new Map();
  const listeners = [];
  let count = 0;
  let rest = "";

  fromBrowser.setEncoding("utf8").on("data", (data) => {
    const messages = (rest + data).split("\0");
    rest = messages.pop();
    for (const message of messages.map(JSON.parse)) {
      const answered = waiting.get(message.id);
      waiting.delete(message.id);
      if (message.error) answered?.reject(new Error(`${answered.method}: ${message.error.message}`));
      else if (answered) answered.resolve(message.result);
      else for (const listener of listeners) listener(message);
    }
  });
  gone.then((code) => {
    for (const { reject, method } of waiting.values()) reject(new Error(`Chromium ended (${code}) during ${method}`));
  });

  function send(method, params = {}, sessionId = undefined) {
    return new Promise((resolve, reject) => {
      waiting.set(++count, { resolve, reject, method });
      toBrowser.write(`${JSON.stringify({ id: count, method, params, sessionId })}\0`);
    });
  }

  // A page: its commands, its events, and what every check asks of it.
  async function open() {
    const { targetId } = await send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
    const call = (method, params) => send(method, params, sessionId);
    const on = (method, listener) =>
      listeners.push((event) => event.sessionId === sessionId && event.method === method && listener(event.params));
    const next = (method) => new Promise((resolve) => on(method, resolve));

    async function run(expression) {
      const { result, exceptionDetails } = await call("Runtime.evaluate", {
        expression, awaitPromise: true, returnByValue: true, userGesture: true,
      });
      if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    }

    async function press(key, modifiers = 0) {
      const codes = { Tab: 9, Enter: 13, Escape: 27, " ": 32, ArrowRight: 39, End: 35 };
      const text = { Enter: "\r", " ": " " }[key];
      const event = { key, code: key === " " ? "Space" : key, windowsVirtualKeyCode: codes[key], modifiers };
      await call("Input.dispatchKeyEvent", { type: text ? "keyDown" : "rawKeyDown", text, ...event });
      await call("Input.dispatchKeyEvent", { type: "keyUp", ...event });
    }

    await Promise.all(["Page", "Runtime", "Log", "Network"].map((domain) => call(`${domain}.enable`)));
    return { call, on, next, run, press };
  }

  async function close() {
    await send("Browser.close").catch(() => {});
    await gone;
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }

  return { open, close, send };
}
