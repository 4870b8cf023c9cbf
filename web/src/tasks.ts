// A frame through a model: preprocessing, inference and the task's answer, in the worker.
import { colored, drawn, movedRange, type Range } from "./depth";
import { found, SHOWN, type Box } from "./detect";
import { decide, leafPaths } from "./hierarchy";
import type { Manifest, Variant } from "./manifest";
import { prepare, rgbaOf, rgbOf, roundEven } from "./preprocess";
import type { Frame, Tensors } from "./protocol";
import type { Picture } from "./resample";
import { classesAt, painted, partsOf, type Part } from "./segment";
import { runTiled, tileFor, toPixels } from "./tiles";

export interface Spent {
  pre: number;
  run: number;
  post: number;
}

interface Base {
  frame: Frame;
  ms: Spent;
}

export interface PictureAnswer extends Base {
  kind: "picture";
  task: string;
  rgba: Uint8ClampedArray<ArrayBuffer>;
  /** Of depth: what the ends of the colours stand for. */
  range: (Range & { metric: boolean }) | null;
  /** Of masks: the classes that are there. */
  parts?: Part[];
}

export interface LabelAnswer extends Base {
  kind: "labels";
  /** From the coarsest level to the finest. */
  path: { level: string; label: string; score: number }[];
  top: { label: string; score: number }[];
}

export interface BoxAnswer extends Base {
  kind: "boxes";
  labels: string[];
  /** Those that are shown, the best first. */
  boxes: Box[];
}

export type Answer = PictureAnswer | LabelAnswer | BoxAnswer;
type Fixed = Omit<PictureAnswer, keyof Base> | Omit<LabelAnswer, keyof Base> | Omit<BoxAnswer, keyof Base>;
export type Run = (inputs: Tensors) => Promise<Tensors>;

/** What is kept from frame to frame. */
export interface Follow {
  range: Range | null;
}

/** Of each task that resizes a photo to the model's input: outputs to an answer. */
export const ANSWERS: Record<string, (outputs: Tensors, manifest: Manifest, image: Picture, follow: Follow) => Fixed> = {
  classify: labelled,
  depth: depthPicture,
  segment: maskPicture,
  detect: boxed,
};

export async function answerFrame(
  run: Run, manifest: Manifest, variant: Variant, frame: Frame, strength: number | null, follow: Follow,
): Promise<Answer> {
  const ms: Spent = { pre: 0, run: 0, post: 0 }, began = performance.now();
  const timed: Run = async (inputs) => {
    const start = performance.now();
    try {
      return checked(await run(inputs), manifest);
    } finally {
      ms.run += performance.now() - start;
    }
  };
  const image = rgbOf(frame.rgba, frame.width, frame.height);
  ms.pre = performance.now() - began;
  const answer = manifest.preprocess.resize === "tile"
    ? { kind: "picture" as const, task: manifest.task, range: null,
        rgba: rgbaOf(await adjusted(image, (each) => restored(timed, manifest, variant, each), strength)) }
    : await answerFixed(timed, manifest, image, follow, ms);
  ms.post = performance.now() - began - ms.pre - ms.run;
  return { ...answer, frame, ms };
}

async function answerFixed(
  run: Run, manifest: Manifest, image: Picture, follow: Follow, ms: Spent,
): Promise<Fixed> {
  const began = performance.now(), input = prepare(image, manifest.preprocess);
  ms.pre += performance.now() - began;
  const outputs = await run(pixelsOf(input));
  return ANSWERS[manifest.task](outputs, manifest, image, follow);
}

export function pixelsOf(image: Picture): Tensors {
  return { pixels: { dtype: "uint8", data: image.data, dims: [1, image.height, image.width, 3] } };
}

/** NaN and missing outputs are faults of the file, and never a picture. */
function checked(outputs: Tensors, manifest: Manifest): Tensors {
  for (const { name } of manifest.outputs) {
    const data = outputs[name]?.data;
    if (!data) throw new Error(`the file has no output ${name}`);
    if (data instanceof Float32Array && !data.every(Number.isFinite)) {
      throw new Error(`output ${name} holds NaN or infinity`);
    }
  }
  return outputs;
}

async function restored(run: Run, manifest: Manifest, variant: Variant, image: Picture): Promise<Picture> {
  const name = manifest.outputs[0].name, { height, width } = image;
  const once = async (tile: Picture) => (await run(pixelsOf(tile)))[name].data as Float32Array;
  const size = tileFor(height, width, manifest.preprocess, variant);
  return size
    ? runTiled(once, image, size, manifest.preprocess.overlap)
    : toPixels(await once(image), width, height);
}

/** The picture at a strength of 0 to 2: see pocketvit's spec/tasks/strength.py. */
export async function adjusted(
  image: Picture, answer: (image: Picture) => Promise<Picture>, strength: number | null,
): Promise<Picture> {
  if (strength === 0) return image;
  const first = await answer(image);
  if (strength === null || strength === 1) return first;
  return strength < 1 ? blend(image, first, strength) : blend(first, await answer(first), strength - 1);
}

function blend(start: Picture, end: Picture, share: number): Picture {
  const data = new Uint8Array(end.data.length), part = Math.fround(share);
  for (let i = 0; i < data.length; i++) {
    const low = start.data[i];
    data[i] = roundEven(Math.fround(low + Math.fround(part * (end.data[i] - low))));
  }
  return { ...end, data };
}

function labelled(outputs: Tensors, manifest: Manifest): Omit<LabelAnswer, keyof Base> {
  const { levels } = manifest;
  const scores = levels.map((level) => outputs[`probs_${level.name}`].data as Float32Array);
  const chosen = decide(scores, leafPaths(levels));
  const path = levels.map((level, k) => ({
    level: level.name, label: level.labels[chosen[k]], score: scores[k][chosen[k]],
  }));
  const finest = levels.length - 1;
  const top = levels[finest].labels
    .map((label, i) => ({ label, score: scores[finest][i] }))
    .sort((a, b) => b.score - a.score)
    .slice(0, 5);
  return { kind: "labels", path, top };
}

function boxed(outputs: Tensors, manifest: Manifest): Omit<BoxAnswer, keyof Base> {
  const { heat, sides } = outputs, [, , rows, columns] = heat.dims;
  const boxes = found(heat.data, sides.data, rows, columns).filter(({ score }) => score >= SHOWN);
  return { kind: "boxes", labels: manifest.levels[0].labels, boxes };
}

function depthPicture(
  outputs: Tensors, manifest: Manifest, image: Picture, follow: Follow,
): Omit<PictureAnswer, keyof Base> {
  const spec = manifest.outputs[0], metric = spec.name === "depth", { data, dims } = outputs[spec.name];
  follow.range = movedRange(data as Float32Array, follow.range);
  const map = colored(data as Float32Array, dims[1], dims[2], follow.range, metric);
  const picture = drawn(map, image.height, image.width);
  return { kind: "picture", task: manifest.task, rgba: rgbaOf(picture), range: { ...follow.range, metric } };
}

function maskPicture(outputs: Tensors, manifest: Manifest, image: Picture): Omit<PictureAnswer, keyof Base> {
  const { data, dims } = outputs[manifest.outputs[0].name], { labels } = manifest.levels[0], shape = dims.slice(1);
  const classes = classesAt(data, shape, image.height, image.width);
  const rgba = rgbaOf(painted(image, classes, labels.length));
  return { kind: "picture", task: manifest.task, rgba, range: null, parts: partsOf(data, shape, labels) };
}
