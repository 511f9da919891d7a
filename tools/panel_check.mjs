// Does the optimizer's chart stay with the node a user sees? node tools/panel_check.mjs URL [litegraph|vue]
// Copies the node, loads its graph again while it runs, opens a copy of the workflow, and makes a subgraph of it: all of
// which leave nodes behind that the page never says are removed. Ends with status 1 where a chart or a button is dead.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { open } from "./page.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const [url, renderer = "litegraph"] = process.argv.slice(2);
const { browser, page } = await open(url, { settings: { "Comfy.VueNodes.Enabled": renderer === "vue" }, width: 1600, height: 900 });
const draft = JSON.parse(readFileSync(join(root, "workflows", "quick-draft.json"), "utf8"));
const problems = [];

/** The draft with small steps and many of them, so that it is still at work while we look. */
function load(steps) {
  return page.evaluate(async ([graph, count]) => {
    const { app } = window;
    await app.loadGraphData(graph);
    await new Promise((done) => setTimeout(done, 400));
    const node = app.graph.nodes.find((n) => n.type === "Distill3D_NeRFOptimizer");
    const choose = (owner, name, value) => {
      const widget = owner.widgets.find((w) => w.name === name);
      widget.value = value;
      widget.callback?.(value);
    };
    choose(node, "seed", Math.floor(Math.random() * 2 ** 31)); // another than the one the server has the result of
    choose(node, "preset", "custom");
    await new Promise((done) => setTimeout(done, 100));
    choose(node, "preset.iterations", count);
    choose(node, "preset.more", "render.samples_per_ray = 16\nfield.grid.levels = 2");
    const mesh = app.graph.nodes.find((n) => n.type === "Distill3D_MeshExport");
    choose(mesh, "resolution", 24);
    choose(mesh, "texture_size", 0);
  }, [draft, steps]);
}

/** What the panels on the page say, and whether their buttons can be pressed. */
function panels() {
  return page.evaluate(() => [...document.querySelectorAll(".distill3d-panel")].map((panel) => ({
    words: panel.querySelector(".distill3d-summary").textContent,
    stop: !panel.querySelector(".distill3d-stop").disabled,
  })));
}

async function expect(what, matches, patience = 120_000) {
  const began = Date.now();
  let seen = [];
  while (Date.now() - began < patience) {
    seen = await panels();
    if (seen.length === 1 && matches(seen[0])) return console.log(`${what}: ${seen[0].words}`);
    await page.waitForTimeout(300);
  }
  problems.push(`${what}: ${JSON.stringify(seen)}`);
}

const runs = (steps) => (panel) => panel.stop && new RegExp(`\\d+/${steps} running`).test(panel.words);
const queue = () => page.evaluate(() => window.app.queuePrompt(0, 1));
const stop = () => page.evaluate(() => document.querySelector(".distill3d-stop").click());
const stopped = (panel) => !panel.stop && /stopped/.test(panel.words);

await load(400);
await page.evaluate(() => {
  const node = window.app.graph.nodes.find((n) => n.type === "Distill3D_NeRFOptimizer");
  window.app.canvas.copyToClipboard([node]);
});
await queue();
await expect("after copying the node", runs(400));
await page.evaluate(() => window.app.loadGraphData(window.app.graph.serialize()));
await expect("after its graph was loaded again", runs(400));
await page.evaluate((graph) => window.app.loadGraphData({ ...graph, id: crypto.randomUUID() }), draft);
await page.waitForTimeout(3000);
await expect("in a copy of the workflow", (panel) => !panel.stop && /Not run/.test(panel.words), 5000);
await page.evaluate(() => window.app.api.interrupt());

await load(300);
await page.evaluate(() => {
  const { graph } = window.app;
  graph.convertToSubgraph(new Set([graph.nodes.find((n) => n.type === "Distill3D_NeRFOptimizer")]));
});
await queue();
await page.evaluate(() => window.app.canvas.setGraph(window.app.graph.nodes.find((n) => n.subgraph).subgraph));
await expect("in a subgraph", runs(300));
await stop();
await expect("stopped there", stopped);

await browser.close();
for (const problem of problems) console.error(problem);
console.log(`${renderer}: ${problems.length} problems`);
process.exit(problems.length ? 1 : 0);
