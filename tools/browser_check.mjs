// Runs a template in a real Chromium and looks: node tools/browser_check.mjs URL OUT [iterations] [litegraph|vue] [make]
// "make" first makes the templates anew in the same page, "pictures" makes the help pages' pictures at the end.
// Start ComfyUI without --disable-api-nodes: its page then refuses the viewer the textures inside a GLB.
// The README's picture is OUT/litegraph-row.png of a run with 0 iterations, which leaves the template as it is.
// Fails loudly when a node or widget is missing, or when preview, chart or viewer stay empty.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { SETTINGS, makeAll } from "./make_templates.mjs";
import { open, ready } from "./page.mjs";
import { TEMPLATES } from "./templates.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const [url, out, iterations = "40", renderer = "litegraph", make = ""] = process.argv.slice(2);
mkdirSync(out, { recursive: true });
const settings = { ...SETTINGS, "Comfy.VueNodes.Enabled": renderer === "vue" };
const { browser, page, errors } = await open(url, { settings, width: make === "make" ? 1280 : 1600, height: make === "make" ? 760 : 900 });
if (make === "make") {
  await makeAll(page, Object.keys(TEMPLATES));
  await page.setViewportSize({ width: 1600, height: 900 });
}
const problems = [];
const HEIGHT = 820; // of NeRF Optimizer, so that its picture is large

for (const file of readdirSync(join(root, "workflows")).filter((name) => name.endsWith(".json"))) {
  const workflow = JSON.parse(readFileSync(join(root, "workflows", file), "utf8"));
  const lost = await page.evaluate(async (graph) => {
    await window.app.loadGraphData(graph);
    await new Promise((done) => setTimeout(done, 300));
    const { output } = await window.app.graphToPrompt();
    const gone = window.app.graph.nodes.filter((node) => !window.LiteGraph.registered_node_types[node.type]);
    const count = window.app.graph.nodes.filter((node) => !["MarkdownNote", "Note"].includes(node.type)).length;
    return { gone: gone.map((node) => node.type), nodes: Object.keys(output).length, count };
  }, workflow);
  if (lost.gone.length || lost.nodes !== lost.count) problems.push(`${file}: ${JSON.stringify(lost)}`);
}

const draft = JSON.parse(readFileSync(join(root, "workflows", "quick-draft.json"), "utf8"));
await page.evaluate(async ([graph, steps, height]) => {
  const { app } = window;
  await app.loadGraphData(graph);
  await new Promise((done) => setTimeout(done, 300));
  const node = app.graph.nodes.find((n) => n.type === "Distill3D_NeRFOptimizer");
  const choose = (name, value) => {
    const widget = node.widgets.find((w) => w.name === name);
    widget.value = value;
    widget.callback?.(value);
  };
  if (steps > 0) {
    choose("seed", Math.floor(Date.now() / 1000) % 2 ** 31); // a server that has run the same would show nothing grow
    choose("preset", "custom");
    await new Promise((done) => setTimeout(done, 100));
    choose("preset.iterations", steps);
    choose("preset.more", "render.samples_per_ray = 32\nfield.grid.levels = 3");
    const mesh = app.graph.nodes.find((n) => n.type === "Distill3D_MeshExport");
    mesh.widgets.find((w) => w.name === "resolution").value = 48;
  }
  node.setSize([360, height]);
  const boxes = app.graph.nodes.map((n) => [...n.pos, ...n.size]);
  app.canvas.ds.scale = 0.74;
  app.canvas.ds.offset = [40 - Math.min(...boxes.map((b) => b[0])), 90 - Math.min(...boxes.map((b) => b[1]))];
  app.canvas.setDirty(true, true);
  window.seen = {};
  for (const kind of ["execution_success", "execution_error", "execution_interrupted", "distill3d.step"]) {
    app.api.addEventListener(kind, (event) => { window.seen[kind] = event.detail ?? true; });
  }
  app.api.addEventListener("b_preview_with_metadata", () => { window.seen.preview = (window.seen.preview ?? 0) + 1; });
  await app.queuePrompt(0, 1);
}, [draft, Number(iterations), HEIGHT]);

const began = Date.now();
await page.waitForFunction((some) => window.seen["distill3d.step"]?.iteration > some,
  Number(iterations) ? Math.min(12, Number(iterations) / 2) : 12, { timeout: 1_800_000 });
await page.screenshot({ path: join(out, `${renderer}-running.png`) });
await page.waitForFunction(() => Object.keys(window.seen).some((kind) => kind.startsWith("execution_")), null,
  { timeout: 3_600_000 });
await page.waitForTimeout(8000);
await page.screenshot({ path: join(out, `${renderer}-done.png`) });
const state = await page.evaluate(() => ({
  seen: window.seen,
  words: document.querySelector(".distill3d-summary")?.textContent ?? "",
  chart: [...(document.querySelector(".distill3d-panel canvas")?.getContext("2d")
    .getImageData(0, 0, 200, 100).data ?? [])].some((value) => value > 0),
  viewers: document.querySelectorAll("canvas").length,
  sheets: [...document.querySelectorAll(`[data-node-id="${window.app.graph.nodes
    .find((n) => n.type === "Distill3D_NeRFOptimizer").id}"] img`)].filter((image) => image.offsetWidth > 0).length,
}));
if (!state.seen.execution_success) problems.push(`the draft did not end well: ${JSON.stringify(state.seen)}`);
if (!state.chart) problems.push("the chart is empty");
if (!/done/.test(state.words)) problems.push(`the chart's words say ${state.words}`);
if (!state.seen.preview) problems.push("no preview came");
if (renderer === "vue" && state.sheets !== 1) problems.push(`NeRF Optimizer shows ${state.sheets} pictures, not one`);
if (errors.some((text) => text.includes("Couldn't load texture")))
  problems.push("the viewer shows the mesh without its texture: start ComfyUI without --disable-api-nodes, which blocks it");
await page.evaluate(() => {
  const { ds } = window.app.canvas;
  ds.scale = 0.88; // from Distill Loss to the viewer
  ds.offset = [90 / ds.scale - 440, 150 / ds.scale];
  window.app.canvas.setDirty(true, true);
});
await page.waitForTimeout(8000);
await page.screenshot({ path: join(out, `${renderer}-row.png`), clip: { x: 70, y: 100, width: 1480, height: 790 } });
const kept = await afterReload();
if (!kept.picture || !/done/.test(kept.words) || kept.node < HEIGHT || kept.panel < 300)
  problems.push(`after a reload: ${JSON.stringify(kept)}`);
writeFileSync(join(out, `${renderer}.json`), JSON.stringify({ ...state, errors, problems,
  seconds: (Date.now() - began) / 1000 }, null, 1));
if (make === "pictures") await makeAll(page, ["pictures"]);
await browser.close();
for (const problem of problems) console.error(problem);
console.log(`${renderer}: ${state.words}; ${problems.length} problems, ${errors.length} messages from the page`);
process.exit(problems.length ? 1 : 0);

/** The same page loaded again: what the optimizer's panel still shows of the run. */
async function afterReload() {
  await page.reload({ waitUntil: "domcontentloaded", timeout: 900_000 });
  await ready(page);
  await page.waitForFunction(() => window.app.graph.nodes.some((n) => n.type === "Distill3D_NeRFOptimizer"), null,
    { timeout: 120_000 });
  await page.waitForTimeout(4000);
  await page.screenshot({ path: join(out, `${renderer}-reloaded.png`) });
  return page.evaluate(() => ({
    picture: document.querySelector(".distill3d-picture")?.offsetHeight > 60,
    words: document.querySelector(".distill3d-summary")?.textContent ?? "",
    node: window.app.graph.nodes.find((n) => n.type === "Distill3D_NeRFOptimizer").size[1],
    panel: document.querySelector(".distill3d-panel")?.offsetHeight,
  }));
}
