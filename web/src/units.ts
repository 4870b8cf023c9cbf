// What tests hold against Python without a browser.
export { readNpz } from "./npz";
export { prepare } from "./preprocess";
export { resize } from "./resample";
export { runTiled, tileFor } from "./tiles";
export { FIGURES } from "./figures";
export { adjusted, ANSWERS } from "./tasks";
export { colored, movedRange } from "./depth";
export { classesAt, painted, partsOf } from "./segment";
export { averagePrecision, found } from "./detect";
export { decide, leafPaths } from "./hierarchy";
export { faultsOf, limitsOf, readGolden } from "./golden";
export { parseManifest, webVariants } from "./manifest";
export { Camera } from "./camera";
export { InferenceWorker } from "./client";
export { Keeper } from "./keeper";
export { openInstalled, take, trusted } from "./models";
export { file, Unreachable } from "./server";
