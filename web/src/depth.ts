// Depth in colours that stay from frame to frame: as pocketvit's spec/depth_stream.py and depth_pictures.py.
import { resize, type Picture } from "./resample";
import { roundEven } from "./preprocess";

const COLOURS = [
  [16, 9, 45], [40, 11, 83], [66, 10, 104], [92, 18, 110], [117, 27, 110], [141, 35, 105], [166, 45, 96],
  [191, 57, 82], [212, 72, 66], [229, 92, 48], [242, 116, 28], [250, 144, 8], [252, 172, 17], [249, 203, 53],
  [242, 234, 105], [252, 255, 164],
];
const UNKNOWN = [128, 128, 128];
const SHARES = [2, 98];
/** Share by which the range of colours goes after that of a new map. */
const FOLLOW = 0.05;

export interface Range {
  low: number;
  high: number;
}

/** NumPy's percentile with linear interpolation, of sorted values. */
function percentile(sorted: Float32Array, share: number): number {
  const place = (share / 100) * (sorted.length - 1), below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/** The range of colours after a new map, which moves slowly from `old`. */
export function movedRange(depth: Float32Array, old: Range | null): Range {
  const known = depth.filter((value) => Number.isFinite(value) && value > 0);
  const sorted = (known.length ? known : depth.slice()).sort();
  const [low, high] = SHARES.map((share) => percentile(sorted, share));
  const from = old ?? { low, high };
  const next = { low: from.low + FOLLOW * (low - from.low), high: from.high + FOLLOW * (high - from.high) };
  next.high = Math.max(next.high, next.low + 1e-6 * Math.max(Math.abs(next.low), 1e-3));
  return next;
}

/** Near is bright, far is dark; `metric` is metres, else inverse depth, of which near is large. */
export function colored(
  depth: Float32Array, height: number, width: number, range: Range, metric: boolean,
): Picture {
  const data = new Uint8Array(height * width * 3), span = Math.max(range.high - range.low, 1e-9);
  const last = COLOURS.length - 1;
  for (let i = 0; i < depth.length; i++) {
    const value = depth[i];
    const known = Number.isFinite(value) && (!metric || value > 0);
    const place = (metric ? range.high - value : Math.min(value, range.high) - range.low) / span;
    const step = Math.min(1, Math.max(0, place)) * last, below = Math.min(Math.floor(step), last - 1);
    for (let k = 0; k < 3; k++) {
      const mixed = COLOURS[below][k] + (step - below) * (COLOURS[below + 1][k] - COLOURS[below][k]);
      data[3 * i + k] = known ? roundEven(mixed) : UNKNOWN[k];
    }
  }
  return { data, width, height };
}

export function drawn(depth: Picture, height: number, width: number): Picture {
  return resize(depth, height, width, "bilinear");
}
