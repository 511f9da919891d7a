// A small line chart: loss, gradient norm and occupancy over the run, each on its own scale, in the theme's colours.
// Loss and gradient jump with every timestep that is drawn: their running mean is drawn over them.

const LINES = [
  { key: "loss", label: "loss", color: "#e8915b", noisy: true },
  { key: "gradient", label: "gradient", color: "#5b9be8", noisy: true },
  { key: "occupancy", label: "occupancy", color: "#6fbf73" },
];
const GAP = 3;
const FAINT = 0.15;

/** The running mean of `values` over about a fifteenth of them. */
export function smooth(values) {
  const share = 2 / (1 + Math.max(1, values.length / 15));
  let mean = values[0];
  return values.map((value) => (mean += share * (value - mean)));
}

function range(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}

function style(name, fallback) {
  const found = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return found || fallback;
}

/** Draw `points` ({iteration, iterations, loss, gradient, occupancy}) into `canvas` at its own size on the page. */
export function drawChart(canvas, points) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "10px sans-serif";
  const total = points.at(-1)?.iterations ?? 1;
  let left = 6;
  for (const line of LINES) {
    pen.fillStyle = line.color;
    pen.fillRect(left, 5, 8, 8);
    pen.fillStyle = style("--input-text", "#ddd");
    pen.fillText(line.label, left + 11, 12);
    left += 18 + pen.measureText(line.label).width + 6;
    const shown = points.filter((point) => Number.isFinite(point[line.key]));
    if (shown.length < 2) continue;
    const values = shown.map((point) => point[line.key]);
    const means = line.noisy ? smooth(values) : values;
    const [low, high] = range(means);
    const draw = (heights) => {
      pen.beginPath();
      heights.forEach((value, index) => {
        const x = GAP + (shown[index].iteration / total) * (width - 2 * GAP);
        const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
        const y = height - GAP - share * (height - 20 - GAP);
        if (index) pen.lineTo(x, y);
        else pen.moveTo(x, y);
      });
      pen.stroke();
    };
    pen.strokeStyle = line.color;
    if (line.noisy) {
      pen.globalAlpha = FAINT;
      pen.lineWidth = 1;
      draw(values);
      pen.globalAlpha = 1;
    }
    pen.lineWidth = 1.5;
    draw(means);
  }
}

/** The chart in words, for those who do not see it. */
export function summary(points, running) {
  const last = points.at(-1);
  if (!last) return "Not run yet";
  const first = points[0];
  const number = (value) => {
    if (!Number.isFinite(value)) return "not finite";
    return Math.abs(value) < 1000 ? Number(value).toPrecision(3) : Math.round(value).toLocaleString("en");
  };
  const way = `loss ${number(first.loss)} to ${number(last.loss)}`;
  const state = running ? "running" : last.iteration < last.iterations ? "stopped" : "done";
  const filled = Number.isFinite(last.occupancy) ? `${(100 * last.occupancy).toFixed(0)} %` : "unknown";
  return `${last.iteration}/${last.iterations} ${state}: ${way}, gradient ${number(last.gradient)}, occupancy ${filled}`;
}
