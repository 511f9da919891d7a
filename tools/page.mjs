// A Chromium page with ComfyUI in it, ready to use.
import { mkdtempSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FLAGS = [
  "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
];

/** playwright-core from here, or from the folder PLAYWRIGHT names. */
function chromium() {
  const places = [process.env.PLAYWRIGHT, process.cwd(), import.meta.dirname].filter(Boolean);
  for (const place of places) {
    try {
      return createRequire(join(place, "package.json"))("playwright-core").chromium;
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
    }
  }
  throw new Error("playwright-core is not installed: npm i playwright-core, or name its folder in PLAYWRIGHT");
}

/** Waits until the page's app knows our nodes. */
export async function ready(page) {
  await page.waitForFunction(() => window.app?.graph && window.LiteGraph?.registered_node_types?.Distill3D_LoadSD, null,
    { timeout: 900_000 });
}

/** Opens `url`, waits for the app, and collects what the page complains of in `errors`. */
export async function open(url, { settings = {}, width = 1280, height = 760 } = {}) {
  const profile = mkdtempSync(join(tmpdir(), "distill3d-browser-"));
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const browser = await chromium().launchPersistentContext(profile, {
    executablePath, headless: true, args: FLAGS, viewport: { width, height },
  });
  const page = browser.pages()[0] ?? (await browser.newPage());
  page.setDefaultTimeout(600_000); // a busy machine draws the 3D viewer in software
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(url, { waitUntil: "domcontentloaded", timeout: 900_000 });
  await ready(page);
  for (const [name, value] of Object.entries({ "Comfy.TutorialCompleted": true, ...settings })) {
    await page.evaluate(([key, wanted]) => window.app.extensionManager?.setting?.set(key, wanted), [name, value]);
  }
  await page.waitForTimeout(1500);
  await page.keyboard.press("Escape");
  return { browser, page, errors };
}
