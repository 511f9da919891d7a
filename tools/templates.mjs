// What each template holds: nodes with their widgets and wires, placed in columns, and a note.
const TINY = { source: "bundled tiny prior" };
const CHECKPOINT = { source: "checkpoint" };

const prompts = (prompt, at) => ({
  type: "Distill3D_ViewPrompts", widgets: { prompt }, wires: { clip: ["load", 1] }, size: [320, 270], at,
});
const load = (widgets, at = [0, 0]) => ({ type: "Distill3D_LoadSD", widgets, at });
const loss = (widgets, at, model = ["load", 0], wires = {}) => ({
  type: "Distill3D_DistillLoss", widgets, wires: { model, prompts: ["prompts", 0], ...wires }, at,
});
const nerf = (widgets, at, from = "loss", wires = {}) => ({
  type: "Distill3D_NeRFOptimizer", widgets: { seed: 0, ...widgets },
  wires: { loss: [from, 0], vae: ["load", 2], ...wires }, size: [360, 520], at,
});
const mesh = (at, from = ["nerf", 0], widgets = {}) => ({ type: "Distill3D_MeshExport", widgets, wires: { field: from }, at });
// the path and not the file: of a file the viewer keeps a copy in the output folder
const viewer = (at, from = ["export", 2]) => ({ type: "Preview3D", wires: { model_file: from }, size: [380, 420], at });
const note = (text, at = [0, 520]) => ({ type: "MarkdownNote", widgets: { 0: text }, size: [380, 300], at });

const picture = (from, size, at) => ({ type: "PreviewImage", wires: { images: from }, size, at });
const text = (from, size, at) => ({ type: "PreviewAny", wires: { source: from }, size, at });

const bakeOff = () => {
  const nodes = { load: load(TINY), prompts: prompts("a blue torus", [0, 180]) };
  const fields = {};
  ["SDS", "CSD", "ASD", "TBSD"].forEach((method, place) => {
    const id = method.toLowerCase();
    const [left, top] = [440 + 800 * (place % 2), 860 * Math.floor(place / 2)];
    nodes[`loss_${id}`] = loss({ method }, [left, top]);
    const custom = { preset: "custom", "preset.base": "draft", "preset.iterations": 200 };
    nodes[`nerf_${id}`] = nerf(custom, [left + 400, top], `loss_${id}`);
    fields[`field_${place + 1}`] = [`nerf_${id}`, 0];
  });
  nodes.compare = { type: "Distill3D_CompareRuns", wires: fields, size: [560, 1400], at: [2060, 0] };
  nodes.curves = picture(["compare", 1], [560, 1000], [2660, 0]);
  nodes.table = text(["compare", 2], [560, 360], [2660, 1060]);
  return nodes;
};

export const TEMPLATES = {
  "quick-draft": {
    nodes: {
      load: load(TINY),
      prompts: prompts("a red cube", [0, 180]),
      loss: loss({ method: "SDS" }, [440, 0]),
      nerf: nerf({ preset: "draft" }, [860, 0]),
      export: mesh([1280, 0]),
      view: viewer([1700, 0]),
      note: note(`## Quick draft

**Hardware** any CPU, 2 GB of memory. **Time** about two minutes of one free core. **Model** the bundled tiny prior, no download.

Press Run, watch the sheet grow in NeRF Optimizer, press *Stop & keep* when it is good enough.

**What good looks like**: one closed object of the right colour from all four sides, opacity white inside and black outside.
The bundled prior knows fourteen shapes in eight colours, bare, striped, dotted or checkered, and six objects with a front: the help
page of Load SD names them. Mugs, bowls and chairs come out filled.`),
    },
  },
  "standard-sd15": {
    nodes: {
      load: load(CHECKPOINT),
      prompts: prompts("a DSLR photo of a corgi", [0, 220]),
      loss: loss({ method: "SDS" }, [440, 0]),
      nerf: nerf({ preset: "standard" }, [860, 0]),
      export: mesh([1280, 0]),
      view: viewer([1700, 0]),
      env: { type: "Distill3D_EnvironmentReport", at: [1700, 500] },
      machine: text(["env", 0], [380, 300], [1700, 620]),
      note: note(`## Standard run on Stable Diffusion 1.5

**Hardware** a GPU with 8 GB or more. **Time** not measured yet on a real checkpoint; 6,000 steps of one view. **Model** any Stable
Diffusion 1.5 checkpoint in **models/checkpoints**, as .safetensors: choose it in Load SD.

**What good looks like**: after a tenth of the run a blob of the right colours, after a third the shape, then detail. Try **draft** first.`,
        [0, 560]),
    },
  },
  "method-bake-off": {
    nodes: {
      ...bakeOff(),
      note: note(`## Method bake-off

**Hardware** any CPU. **Time** four runs of two fifths of a draft; ASD and TBSD ask the model three times a step, SDS and CSD twice. **Model** the bundled tiny prior.

SDS, CSD, ASD and TBSD (our reading) with one seed: the same cameras, noise and first field. Compare Runs puts their views, curves and
a table side by side, and says below the table what was not the same for all.

**What good looks like**: an open ring in every row. Which is best depends on prompt and settings: change one thing at a time.`),
    },
  },
  "methods-2d": {
    nodes: {
      load: load(TINY),
      bench: { type: "Distill3D_Distill2D", at: [440, 0], size: [420, 620],
        wires: { model: ["load", 0], clip: ["load", 1], vae: ["load", 2] },
        widgets: { prompt: "a red cube", methods: "all", iterations: 120, batch: 1 } },
      sheet: picture(["bench", 0], [420, 900], [920, 0]),
      curves: picture(["bench", 1], [420, 900], [1380, 0]),
      table: text(["bench", 2], [880, 340], [920, 960]),
      toy: { type: "Distill3D_Toy2D", widgets: { methods: "all" }, at: [1860, 0], size: [420, 400] },
      toy_sheet: picture(["toy", 0], [420, 420], [1860, 480]),
      toy_curves: picture(["toy", 1], [420, 900], [2320, 0]),
      toy_table: text(["toy", 2], [880, 340], [1860, 960]),
      note: note(`## All methods in 2D

**Hardware** any CPU. **Time** a few minutes of one free core; seconds on a GPU. **Model** the bundled tiny prior for the picture, none for the toy.

Left: a picture is optimised directly by every method, from one start and one noise. Right: the same on points in the plane, where the
score is known. Wire your own checkpoint into Distill 2D to see e(t) of your model and whether it knows your prompt.

**What good looks like**: rows that end in something red with corners; paths that run to a dark spot (BSD stops between). TBSD is our reading of its
abstract; on the bundled prior its quality words mean nothing.`, [0, 200]),
    },
  },
  "dynamic-cfg-freeu": {
    nodes: {
      load: load(TINY),
      prompts: prompts("a green cone", [0, 180]),
      strength: { type: "Distill3D_CFGSchedule", at: [440, -460],
        widgets: { start: 1, end: 0, shape: "linear", over: "timesteps" }, size: [320, 400] },
      freeu: { type: "Distill3D_FreeUPatch", at: [440, 20], wires: { model: ["load", 0], schedule: ["strength", 0] },
        widgets: { version: "v2", b1: 1.4, b2: 1.6, s1: 1, s2: 1 } },
      cfg: { type: "Distill3D_CFGSchedule", at: [440, 360],
        widgets: { start: 7.5, end: 4.5, shape: "linear", over: "iterations" }, size: [320, 400] },
      loss: loss({ method: "SDS" }, [860, 0], ["freeu", 0], { cfg: ["cfg", 0] }),
      nerf: nerf({ preset: "draft" }, [1280, 0]),
      turn: { type: "Distill3D_RenderTurntable", widgets: { frames: 16, size: 128 }, wires: { field: ["nerf", 0] },
        at: [1700, 0] },
      show: { type: "PreviewImage", wires: { images: ["turn", 0] }, size: [300, 300], at: [2060, 0] },
      save: { type: "Distill3D_SaveRadianceField", wires: { field: ["nerf", 0] }, at: [1700, 420] },
      note: note(`## Dynamic CFG and FreeU

**Hardware** any CPU. **Time** as a draft: about two minutes of one free core. **Model** the bundled tiny prior.

The guidance scale falls over the run, meant to set the size early and keep the surface smooth late. FreeU is strong at low noise, where
texture forms, and off at high noise, where shape is decided. The direction of both is that of arXiv 2505.19868 as we read it; the end points are ours.

**What good looks like**: a cone with a point, one colour, nothing floating. With the bundled prior no difference from constant schedules
was measured beyond chance (docs/methods.md); they are meant for Stable Diffusion.`),
    },
  },
  resume: {
    nodes: {
      load: load(TINY),
      prompts: prompts("a red cube", [0, 180]),
      loss: loss({ method: "SDS" }, [440, 0]),
      resume: { type: "Distill3D_Resume", at: [440, 420] },
      nerf: nerf({ preset: "draft" }, [860, 0], "loss", { resume: ["resume", 0] }),
      export: mesh([1280, 0]),
      view: viewer([1700, 0]),
      note: note(`## Resume

**Hardware** any CPU. **Time** what was left of the run. **Model** the bundled tiny prior.

Run *quick-draft*, press Cancel half way, then run this: it goes on where that stopped, exactly as if it had not. The graph has to be
the one that was stopped; every difference is listed.

**What good looks like**: the chart goes on where it stopped.`),
    },
  },
  "lora-prior": {
    nodes: {
      load: load(CHECKPOINT),
      lora: { type: "LoraLoader", wires: { model: ["load", 0], clip: ["load", 1] }, at: [440, -260] },
      prompts: { type: "Distill3D_ViewPrompts", widgets: { prompt: "a wooden toy castle" }, wires: { clip: ["lora", 1] },
        size: [320, 270], at: [0, 220] },
      loss: loss({ method: "ASD" }, [440, 0], ["lora", 0]),
      nerf: nerf({ preset: "standard" }, [860, 0]),
      export: mesh([1280, 0]),
      view: viewer([1700, 0]),
      note: note(`## A LoRA as prior

**Hardware** a GPU with 8 GB or more. **Time** not measured yet on a real checkpoint. **Models** a Stable Diffusion 1.5 checkpoint and a
LoRA made for it, both chosen in their loaders.

Everything the host does to a MODEL works here: LoRA, FreeU, RescaleCFG, ControlNet through Distill Loss's **extras**.

**What good looks like**: the LoRA's style from every side.`, [0, 560]),
    },
  },
  "core-mesh-tools": {
    nodes: {
      field: { type: "Distill3D_LoadRadianceField", at: [0, 0] },
      export: mesh([440, 0], ["field", 0], { texture_size: 0 }),
      decimate: { type: "DecimateMesh", widgets: { target_face_count: 2000 }, wires: { mesh: ["export", 0] }, at: [860, 0] },
      unwrap: { type: "UnwrapMesh", wires: { mesh: ["decimate", 0] }, at: [860, 300] },
      glb: { type: "SaveGLB", wires: { mesh: ["unwrap", 0] }, size: [380, 420], at: [1280, 0] },
      usdz: { type: "Distill3D_MeshConvert", widgets: { format: "usdz", scale: "metres", metres: 0.3 },
        wires: { mesh: ["unwrap", 0] }, at: [1280, 480] },
      note: note(`## On to ComfyUI's own mesh tools

**Hardware** any CPU. **Time** seconds. **Model** none: a field saved by *dynamic-cfg-freeu* or any Save Radiance Field.

Mesh Export gives the host's MESH, so Decimate Mesh, Unwrap Mesh UVs, Save 3D Model and the rest work on it. Its own texture is off
here (**texture_size** 0): vertex colours survive a decimation, an atlas does not.
Mesh Convert saves it in another format, here USDZ, 0.3 metres long. It takes files of your own too.

**What good looks like**: the same object with about 2,000 faces in the viewer of Save 3D Model.`, [0, 260]),
    },
  },
};
