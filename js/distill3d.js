// The NeRF Optimizer's chart and its Stop & keep button. One DOM widget; works with canvas and Vue nodes alike.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { drawChart, summary } from "./chart.js";

const NODE = "Distill3D_NeRFOptimizer";
const SERIES = 600;
/** Height of a text of two lines, which the least height of a panel has room for. */
const LINES = 34;
/** Copying, undo and subgraphs make nodes that are never said to be removed: what the graph holds now is what counts. */
const panels = new WeakMap();

function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/** Every node of the workflow with its execution id, which is its id below every subgraph it lies in: "10:5". */
function* nodesOf(graph = rootGraph(), above = "") {
  for (const node of graph?.nodes ?? []) {
    const id = `${above}${node.id}`;
    yield [id, node];
    if (node.subgraph) yield* nodesOf(node.subgraph, `${id}:`);
  }
}

/** Null for a node that is in no graph. */
function executionId(wanted) {
  for (const [id, node] of nodesOf()) if (node === wanted) return id;
  return null;
}

/** Which run is meant: a node has the same id in every copy of a workflow. */
function runOf(id) {
  return { node: id, workflow: String(rootGraph()?.id ?? "") };
}

function panelOf(data) {
  if (data?.workflow && data.workflow !== runOf("").workflow) return null;
  for (const [id, node] of nodesOf()) if (id === String(data?.node)) return panels.get(node) ?? null;
  return null;
}

function livePanels() {
  return [...nodesOf()].map(([, node]) => panels.get(node)).filter((panel) => panel);
}

/** Least height of a panel, without or with the picture of a run before the reload; a long note takes more. */
function heightOf(panel) {
  const more = Math.max(0, panel.text.offsetHeight - LINES);
  return (panel.picture.style.display === "none" ? 170 : 330) + more;
}

function element(tag, style, text = "") {
  const made = document.createElement(tag);
  Object.assign(made.style, style);
  made.textContent = text;
  return made;
}

class Panel {
  constructor(node) {
    this.node = node;
    this.points = [];
    this.note = "";
    this.running = false;
    this.stopping = false;
    this.saved = 0;
    this.root = element("div", {
      display: "flex", flexDirection: "column", gap: "4px", width: "100%", height: "100%", minHeight: "150px",
      boxSizing: "border-box", padding: "4px", color: "var(--input-text, #ddd)", font: "12px sans-serif",
    });
    this.root.className = "distill3d-panel";
    this.canvas = element("canvas", { width: "100%", flex: "1 1 0", minHeight: "90px", borderRadius: "4px",
      background: "var(--comfy-input-bg, #222)" });
    this.canvas.setAttribute("role", "img");
    this.text = element("div", { lineHeight: "1.35", whiteSpace: "normal", flex: "0 0 auto", maxHeight: "7em",
      overflowY: "auto" }, "Not run yet");
    this.text.className = "distill3d-summary";
    this.text.setAttribute("aria-live", "polite");
    this.button = element("button", { padding: "5px 8px", borderRadius: "4px", cursor: "pointer",
      border: "1px solid var(--border-color, #555)", color: "inherit", background: "var(--comfy-menu-bg, #333)" },
      "Stop & keep");
    this.button.className = "distill3d-stop";
    this.button.title = "Finish with the object as it is now; the graph goes on. To abandon the run, use Cancel.";
    this.button.addEventListener("click", () => this.stop());
    this.picture = element("img", { display: "none", flex: "2 1 0", minHeight: "120px", objectFit: "contain" });
    this.picture.className = "distill3d-picture";
    this.picture.alt = "Front, left, back and right of the last run: colour, normals, opacity";
    this.root.append(this.picture, this.canvas, this.text, this.button);
    this.resize = new ResizeObserver(() => {
      this.fit();
      this.draw();
    });
    this.resize.observe(this.canvas);
    this.update();
  }

  async stop() {
    this.stopping = true;
    this.update();
    const answer = await api.fetchApi("/distill3d/stop", {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify(runOf(this.id ?? executionId(this.node))),
    }).catch(() => null); // the server is gone
    if (!answer?.ok) this.setRunning(false);
  }

  setRunning(running) {
    this.running = running;
    if (!running) this.stopping = false;
    this.update();
  }

  /** Shown only after a reload: while the page lives, the node's own preview shows the same. */
  showPicture(source) {
    this.picture.style.display = source ? "block" : "none";
    if (!source) return this.picture.removeAttribute("src");
    this.picture.src = source;
    this.fit();
  }

  /** Room for everything that is shown; a node that was never drawn has no `y` yet. */
  fit() {
    const least = (this.widget?.y ?? 0) + heightOf(this) + 12;
    if (!(this.widget?.y > 0) || this.node.size[1] >= least) return;
    this.node.setSize([this.node.size[0], least]);
    this.node.setDirtyCanvas(true, true); // an idle canvas is not drawn again by itself
  }

  /** A run that goes on: the server knows its points so far. */
  begin() {
    this.points = [];
    return this.restore().catch(() => {});
  }

  add(point) {
    this.showPicture("");
    const last = this.points.at(-1);
    if (last && (point.iteration <= last.iteration || point.iterations !== last.iterations)) this.points = [];
    this.points.push(point);
    if (this.points.length > SERIES) this.points = this.points.filter((_, index) => index % 2 === 0);
    this.id = String(point.node ?? this.id ?? "");
    if (!this.running) this.running = true;
    this.update();
  }

  /** What the server knows of the last run of this node: after a reload, and where events were missed. */
  async restore() {
    const id = executionId(this.node);
    if (id === null) return;
    const query = new URLSearchParams(runOf(id));
    const answer = await api.fetchApi(`/distill3d/history?${query}`);
    if (!answer.ok) return;
    const found = await answer.json();
    const known = found.points ?? [];
    const since = this.points.filter((point) => point.iteration > (known.at(-1)?.iteration ?? -Infinity));
    if (found.points) this.points = [...known, ...since];
    this.note = found.note ?? this.note;
    this.running = Boolean(found.running);
    this.stopping &&= this.running;
    const local = String(this.node.id);
    const shown = Object.keys(app.nodePreviewImages ?? {}).some((key) => key === local || key.endsWith(`:${local}`));
    if (found.picture && !shown) this.showPicture(api.apiURL(`/distill3d/picture?${query}`));
    this.update();
  }

  update() {
    this.button.disabled = !this.running || this.stopping;
    this.button.textContent = this.stopping ? "Stopping after this step" : "Stop & keep";
    const words = summary(this.points, this.running);
    this.text.textContent = this.note ? `${words} (${this.note})` : words;
    this.canvas.setAttribute("aria-label", words);
    this.fit();
    this.draw();
  }

  draw() {
    drawChart(this.canvas, this.points);
  }

  remove() {
    this.resize.disconnect();
  }
}

app.registerExtension({
  name: "distill3d.optimizer",

  setup() {
    api.addEventListener("distill3d.step", ({ detail }) => panelOf(detail)?.add(detail));
    api.addEventListener("distill3d.begin", ({ detail }) => panelOf(detail)?.begin());
    api.addEventListener("distill3d.end", ({ detail }) => panelOf(detail)?.setRunning(false));
    const note = ({ detail }) => {
      const panel = panelOf(detail);
      if (!panel) return;
      panel.note = detail.message;
      panel.update();
    };
    api.addEventListener("distill3d.note", note);
    const ask = () => livePanels().forEach((panel) => panel.restore().catch(() => {}));
    api.addEventListener("reconnected", ask);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && livePanels().some((panel) => panel.running)) ask();
    });
  },

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const panel = new Panel(node);
    panels.set(node, panel);
    const widget = panel.widget = node.addDOMWidget("distill3d_chart", "distill3d_chart", panel.root, {
      serialize: false,
      hideOnZoom: false,
      hideInPanel: true, // the properties panel would narrow it for good
      getMinHeight: () => heightOf(panel),
      getValue: () => "",
      setValue: () => {},
    });
    widget.serialize = false;
    const configured = node.onConfigure;
    node.onConfigure = function (saved, ...rest) {
      panel.saved = saved.size?.[1] ?? 0;
      setTimeout(() => panel.restore().catch(() => {})); // when it has its place in a graph, or none
      return configured?.call(this, saved, ...rest);
    };
    const removed = node.onRemoved;
    node.onRemoved = function (...rest) {
      panel.remove();
      return removed?.apply(this, rest);
    };
  },

  loadedGraphNode(node) {
    if (node.comfyClass !== NODE) return;
    const panel = panels.get(node);
    if (!panel) return;
    // reading a menu's choice shrinks the node to its least size, and with it the picture a user had made larger
    if (node.size[1] < panel.saved) node.setSize([node.size[0], panel.saved]);
  },
});
