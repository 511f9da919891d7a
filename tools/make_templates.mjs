// Makes workflows/*.json, their thumbnails and the pictures of the help pages with the real frontend:
// node tools/make_templates.mjs URL [template ... | pictures]
// Needs a running ComfyUI with this pack, Chromium (CHROMIUM or /usr/bin/chromium) and `npm i playwright-core`.
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { TEMPLATES } from "./templates.mjs";
import { open } from "./page.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
export const SETTINGS = {
  "LiteGraph.Canvas.MinFontSizeForLOD": 0, "Comfy.Minimap.Visible": false, "Comfy.VueNodes.Enabled": false,
};

/** Builds the named templates in an open page and writes them, and the help pages' pictures when `names` is empty. */
export async function makeAll(page, names) {
  mkdirSync(join(root, "workflows"), { recursive: true });
  for (const [name, template] of Object.entries(TEMPLATES)) {
    if (names.length && !names.includes(name)) continue;
    const { workflow, missing, height } = await page.evaluate(build, template.nodes);
    if (missing.length) throw new Error(`${name}: ${missing.join("; ")}`);
    writeFileSync(join(root, "workflows", `${name}.json`), `${JSON.stringify(workflow, null, 1)}\n`);
    await page.waitForTimeout(1500);
    const clip = { x: 60, y: 100, width: 1140, height: Math.max(360, Math.min(640, Math.round(height))) };
    writeFileSync(join(root, "workflows", `${name}.jpg`), await page.screenshot({ type: "jpeg", quality: 80, clip }));
    console.log(name);
  }
  if (names.length && !names.includes("pictures")) return;
  const docs = join(root, "js", "docs");
  const types = readdirSync(docs).filter((file) => file.endsWith(".md")).map((file) => file.slice(0, -3));
  for (const type of types) {
    const clip = await page.evaluate(alone, type);
    await page.waitForTimeout(700);
    await page.screenshot({ path: join(docs, `${type}.png`), clip });
    console.log(type);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [url, ...names] = process.argv.slice(2);
  const { browser, page } = await open(url, { settings: SETTINGS });
  await makeAll(page, names);
  await browser.close();
}

/** Runs in the page: one node alone at its own size; returns where it is on the page. */
async function alone(type) {
  const { app, LiteGraph } = window;
  app.graph.clear();
  app.graph.last_node_id = window.distill3dNext = (window.distill3dNext ?? 0) + 1;
  const node = LiteGraph.createNode(type);
  app.graph.add(node);
  node.pos = [0, 0];
  const fit = node.computeSize();
  node.setSize([Math.max(340, fit[0]), Math.min(640, fit[1])]);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [160, 170];
  app.canvas.setDirty(true, true);
  const box = app.canvas.canvas.getBoundingClientRect();
  return { x: box.x + 150, y: box.y + 130, width: node.size[0] + 20, height: Math.min(node.size[1] + 50, 640) };
}

/** Runs in the page: builds the graph and returns it as the page saves it. */
async function build(nodes) {
  const { app, LiteGraph } = window;
  const missing = [];
  app.graph.clear();
  app.graph.last_node_id = window.distill3dNext ?? 0; // the page remembers widget values by node id
  const made = {};
  for (const [id, wanted] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(wanted.type);
    if (!node) {
      missing.push(`no node ${wanted.type}`);
      continue;
    }
    node.pos = wanted.at ?? [0, 0];
    app.graph.add(node);
    made[id] = node;
    for (const [name, value] of Object.entries(wanted.widgets ?? {})) {
      const widget = /^\d+$/.test(name) ? node.widgets?.[Number(name)] : node.widgets?.find((w) => w.name === name);
      if (!widget) {
        missing.push(`${wanted.type} has no widget ${name}, only ${node.widgets?.map((w) => w.name)}`);
        continue;
      }
      widget.value = value;
      widget.callback?.(value);
      await new Promise((done) => setTimeout(done, 30));
    }
  }
  for (const [id, wanted] of Object.entries(nodes)) {
    for (const [input, [from, slot]] of Object.entries(wanted.wires ?? {})) {
      const index = made[id]?.inputs?.findIndex((i) => i.name === input) ?? -1;
      if (index < 0 || !made[from]?.connect(slot, made[id], index)) missing.push(`${from}.${slot} -> ${id}.${input}`);
    }
  }
  for (const [id, wanted] of Object.entries(nodes)) {
    if (!made[id]) continue;
    const fit = made[id].computeSize();
    made[id].setSize(wanted.size ? [Math.max(wanted.size[0], fit[0]), Math.max(wanted.size[1], fit[1])] : [Math.max(320, fit[0]), fit[1]]);
  }
  window.distill3dNext = app.graph.last_node_id;
  app.graph.setDirtyCanvas(true, true);
  const boxes = Object.values(made).map((node) => [...node.pos, ...node.size]);
  const [left, top] = [0, 1].map((k) => Math.min(...boxes.map((box) => box[k])));
  const [right, bottom] = [0, 1].map((k) => Math.max(...boxes.map((box) => box[k] + box[k + 2])));
  const scale = Math.min(1100 / (right - left), 560 / (bottom - top), 1);
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [80 / scale - left, 150 / scale - top]; // below the page's own bars
  const workflow = app.graph.serialize();
  workflow.extra = { ...workflow.extra, ds: { scale: 0.6, offset: [80 - left, 100 - top] } };
  return { workflow: JSON.parse(JSON.stringify(workflow)), missing, height: 70 + (bottom - top) * scale };
}
