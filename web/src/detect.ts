// Boxes of a heat map, as pocketvit's spec/boxes.py and spec/tasks/detect.py find them; the average precision on goldens,
// as its spec/detect_metrics.py computes it; and the frames that are drawn around them.
import type { Data } from "./protocol";

const MOST = 100, LEAST = 0.01, OVERLAP = 0.6;
/** Score from which a box is shown. */
export const SHOWN = 0.3;
const COLOURS = [
  [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 240, 240],
  [240, 50, 230], [210, 245, 60], [250, 190, 212], [0, 128, 128], [220, 190, 255],
];
const THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];

export type Sides = [number, number, number, number];

/** Left, top, right, bottom in shares of the photo. */
export interface Box {
  index: number;
  score: number;
  box: Sides;
}

/** Boxes, the best first, of a heat (K, h, w) and the sides (4, h, w) around each cell's centre. */
export function found(heat: Data, sides: Data, rows: number, columns: number): Box[] {
  const cells = rows * columns, at = peaks(heat, rows, columns);
  const kept: Box[] = [];
  for (const place of at) {
    const index = Math.floor(place / cells), cell = place % cells;
    const x = ((cell % columns) + 0.5) / columns, y = (Math.floor(cell / columns) + 0.5) / rows;
    const [left, top, right, bottom] = [0, 1, 2, 3].map((k) => Number(sides[k * cells + cell]));
    const box = [x - left, y - top, x + right, y + bottom].map((side) => Math.min(1, Math.max(0, side))) as Sides;
    if (kept.every((other) => other.index !== index || overlap(box, other.box) <= OVERLAP)) {
      kept.push({ index, score: Number(heat[place]), box });
    }
  }
  return kept.map((one) => ({ ...one, box: one.box.map(Math.fround) as Sides }));
}

/** Places that no neighbour of their class exceeds, the best first; of equals the first one is first. */
function peaks(heat: Data, rows: number, columns: number): number[] {
  const places: number[] = [];
  for (let place = 0; place < heat.length; place++) {
    const value = Number(heat[place]);
    if (value >= LEAST && highest(heat, place, value, rows, columns)) places.push(place);
  }
  return places.sort((a, b) => Number(heat[b]) - Number(heat[a])).slice(0, MOST);
}

function highest(heat: Data, place: number, value: number, rows: number, columns: number): boolean {
  const column = place % columns, row = Math.floor(place / columns) % rows;
  for (let dy = row > 0 ? -1 : 0; dy <= (row < rows - 1 ? 1 : 0); dy++) {
    for (let dx = column > 0 ? -1 : 0; dx <= (column < columns - 1 ? 1 : 0); dx++) {
      if (Number(heat[place + dy * columns + dx]) > value) return false;
    }
  }
  return true;
}

function overlap(a: Sides, b: Sides): number {
  const wide = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const tall = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * tall;
  return union > 0 ? (wide * tall) / union : 0;
}

interface Hit {
  score: number;
  hits: boolean[];
}

/** One photo's answers of one class, and at which thresholds each takes a box that is still free. */
function matches(answers: Box[], truths: Sides[]): Hit[] {
  const free = THRESHOLDS.map(() => truths.map(() => true));
  return [...answers].sort((a, b) => b.score - a.score).map(({ score, box }) => {
    const shared = truths.map((truth) => overlap(box, truth));
    const hits = THRESHOLDS.map((least, t) => {
      let chosen = -1;
      shared.forEach((value, i) => {
        if (free[t][i] && value >= least && (chosen < 0 || value >= shared[chosen])) chosen = i;
      });
      if (chosen >= 0) free[t][chosen] = false;
      return chosen >= 0;
    });
    return { score, hits };
  });
}

/** COCO's average precision in %: `answers` by photo, `truth` (photos, rows, 5) with class -1 in rows that fill up. */
export function averagePrecision(answers: Box[][], truth: { data: Data; dims: number[] }, classes: number): number {
  const [, rows, width] = truth.dims, value = (i: number, row: number, k: number) =>
    Number(truth.data[(i * rows + row) * width + k]);
  const boxes = answers.map((_, i) => Array.from({ length: rows }, (_, row) => ({
    index: value(i, row, 0), sides: [1, 2, 3, 4].map((k) => value(i, row, k)) as Sides,
  })));
  const each: number[] = [];
  for (let index = 0; index < classes; index++) {
    const wanted = boxes.map((all) => all.filter((one) => one.index === index).map(({ sides }) => sides));
    const count = wanted.reduce((sum, all) => sum + all.length, 0);
    if (!count) continue;
    const hits = answers.flatMap((all, i) => matches(all.filter((one) => one.index === index), wanted[i]));
    hits.sort((a, b) => b.score - a.score);
    each.push(mean(THRESHOLDS.map((_, t) => precision(hits.map((hit) => hit.hits[t]), count))));
  }
  return each.length ? 100 * mean(each) : 0;
}

/** The mean over 101 recalls of the best precision at that recall or beyond. */
function precision(hits: boolean[], count: number): number {
  let right = 0;
  const shares = hits.map((hit, i) => (right += Number(hit)) / (i + 1));
  for (let i = shares.length - 2; i >= 0; i--) shares[i] = Math.max(shares[i], shares[i + 1]);
  let reached = 0, at = 0;
  const values = Array.from({ length: 101 }, (_, step) => {
    while (at < hits.length && (reached + Number(hits[at])) / count < step * 0.01) reached += Number(hits[at++]);
    return shares[at] ?? 0;
  });
  return mean(values);
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Frames with label and score, each class in its colour, the best on top. */
export function drawBoxes(canvas: HTMLCanvasElement, boxes: Box[], labels: string[]): void {
  const { width, height } = canvas, context = canvas.getContext("2d")!;
  const line = Math.max(2, Math.floor(Math.min(width, height) / 160)), size = Math.max(10, Math.floor(height / 32));
  context.lineWidth = line;
  context.font = `${size}px sans-serif`;
  context.textBaseline = "top";
  for (const { index, score, box } of [...boxes].reverse()) {
    const [r, g, b] = COLOURS[index % COLOURS.length];
    const [left, top, right, bottom] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
    context.strokeStyle = context.fillStyle = `rgb(${r},${g},${b})`;
    context.strokeRect(left + line / 2, top + line / 2, Math.max(1, right - left - line), Math.max(1, bottom - top - line));
    const text = `${labels[index]} ${Math.round(100 * score)} %`, above = top > size + 4 ? top - size - 4 : top;
    context.fillRect(left, above, context.measureText(text).width + 6, size + 4);
    context.fillStyle = r + g + b > 380 ? "rgb(20,24,31)" : "rgb(245,246,248)";
    context.fillText(text, left + 3, above + 2);
  }
}
