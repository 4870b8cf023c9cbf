// One path through a label hierarchy that is consistent at every level: as pocketvit's spec/hierarchy.py.
import type { Level } from "./manifest";

/** For each class of the finest level its class at every level, coarsest first. */
export function leafPaths(levels: Level[]): number[][] {
  const finest = levels[levels.length - 1];
  return finest.labels.map((_, leaf) => {
    const path = [leaf];
    for (let k = levels.length - 1; k > 0; k--) path.unshift((levels[k].parents ?? [])[path[0]]);
    return path;
  });
}

/** The path with the highest sum of log probabilities over the levels. */
export function decide(scores: ArrayLike<number>[], paths: number[][]): number[] {
  let best = paths[0], highest = -Infinity;
  for (const path of paths) {
    const total = path.reduce((sum, index, level) => sum + Math.log(Math.max(scores[level][index], 1e-12)), 0);
    if (total > highest) [best, highest] = [path, total];
  }
  return best;
}
