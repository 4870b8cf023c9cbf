// What each task's answers to its goldens are judged by beside their differences: the loss of its metric, and how often it
// decides alike. One row for each task.
//
// Left out: the metric of relative depth, which needs a fit; the limits on its outputs themselves are checked.
import { averagePrecision, found } from "./detect";
import { decide, leafPaths } from "./hierarchy";
import type { Manifest } from "./manifest";
import type { Arrays } from "./npz";
import { roundEven } from "./preprocess";
import type { Data } from "./protocol";
import { segmentFigures } from "./segment";

export type Limits = Record<string, number>;
/** By output, one array for each golden. */
export type Outputs = Record<string, Data[]>;

export interface Golden {
  count: number;
  dims: number[];
  input(index: number): Uint8Array;
  outputs: Outputs;
  arrays: Arrays;
}

const MOST_PSNR = 100;

export const FIGURES: Record<string, (manifest: Manifest, outputs: Outputs, golden: Golden) => Limits> = {
  restore: ({ outputs: [{ name }] }, outputs, { outputs: wanted, arrays: { truth } }) => (
    { metric_drop: meanPsnr(wanted[name], truth.data) - meanPsnr(outputs[name], truth.data) }),
  classify: classFigures,
  depth: ({ outputs: [{ name }] }, outputs, { outputs: wanted, arrays: { truth } }) => (
    name === "depth" ? { metric_drop: meanAbsRel(outputs[name], truth.data) - meanAbsRel(wanted[name], truth.data) } : {}),
  segment: ({ outputs: [output] }, outputs, { outputs: wanted, arrays: { truth } }) => (
    segmentFigures(outputs[output.name], wanted[output.name], output, truth)),
  detect: boxFigures,
};

function meanPsnr(answers: Data[], truth: Data): number {
  const each = answers.map((answer, i) => {
    let sum = 0;
    const from = i * answer.length;
    for (let k = 0; k < answer.length; k++) {
      const pixel = Math.min(255, Math.max(0, roundEven(Number(answer[k]))));
      sum += (pixel - Number(truth[from + k])) ** 2;
    }
    return Math.min(MOST_PSNR, 10 * Math.log10(255 ** 2 / (sum / answer.length)));
  });
  return mean(each);
}

function meanAbsRel(answers: Data[], truth: Data): number {
  const each = answers.map((answer, i) => {
    let sum = 0, count = 0;
    for (let k = 0, from = i * answer.length; k < answer.length; k++) {
      const wanted = Number(truth[from + k]);
      if (!(wanted > 0)) continue;
      sum += Math.abs(Math.max(Number(answer[k]), 1e-3) - wanted) / wanted;
      count++;
    }
    return count ? sum / count : null;
  });
  return mean(each.filter((value) => value !== null));
}

function boxFigures(manifest: Manifest, outputs: Outputs, golden: Golden): Limits {
  const [, classes, rows, columns] = manifest.outputs.find(({ name }) => name === "heat")!.shape;
  const precision = ({ heat, sides }: Outputs) => averagePrecision(
    heat.map((one, i) => found(one, sides[i], rows, columns)), golden.arrays.truth, classes);
  return { metric_drop: precision(golden.outputs) - precision(outputs) };
}

function classFigures(manifest: Manifest, outputs: Outputs, golden: Golden): Limits {
  const { levels } = manifest, paths = leafPaths(levels), last = levels.length - 1;
  const finest = (all: Outputs, i: number) => decide(
    levels.map((level) => all[`probs_${level.name}`][i] as Float32Array), paths)[last];
  const best = (all: Outputs, i: number) => argmax(all[`probs_${levels[last].name}`][i]);
  const each = Array.from({ length: golden.count }, (_, i) => i);
  const truth = (i: number) => Number(golden.arrays.truth.data[i * levels.length + last]);
  const hits = (all: Outputs) => 100 * mean(each.map((i) => Number(finest(all, i) === truth(i))));
  const equal = each.map((i) => Number(best(outputs, i) === best(golden.outputs, i)));
  return { metric_drop: hits(golden.outputs) - hits(outputs), min_agreement: 100 * mean(equal) };
}

function argmax(values: Data): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
