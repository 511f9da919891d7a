// A small line chart: loss, gradient norm and occupancy over the run, each on its own scale, in the theme's colours.

const LINES = [
  { key: "loss", label: "loss", color: "#e8915b" },
  { key: "gradient", label: "gradient", color: "#5b9be8" },
  { key: "occupancy", label: "occupancy", color: "#6fbf73" },
];
const GAP = 3;

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
    const [low, high] = range(shown.map((point) => point[line.key]));
    pen.strokeStyle = line.color;
    pen.lineWidth = 1.5;
    pen.beginPath();
    shown.forEach((point, index) => {
      const x = GAP + (point.iteration / total) * (width - 2 * GAP);
      const y = height - GAP - ((point[line.key] - low) / (high - low)) * (height - 20 - GAP);
      if (index) pen.lineTo(x, y);
      else pen.moveTo(x, y);
    });
    pen.stroke();
  }
}

/** The chart in words, for those who do not see it. */
export function summary(points, running) {
  const last = points.at(-1);
  if (!last) return "Not run yet";
  const first = points[0];
  const number = (value) => (Number.isFinite(value) ? Number(value).toPrecision(3) : "not finite");
  const way = `loss ${number(first.loss)} to ${number(last.loss)}`;
  const state = running ? "running" : last.iteration < last.iterations ? "stopped" : "done";
  const filled = Number.isFinite(last.occupancy) ? `${(100 * last.occupancy).toFixed(0)} %` : "unknown";
  return `${last.iteration}/${last.iterations} ${state}: ${way}, gradient ${number(last.gradient)}, occupancy ${filled}`;
}
