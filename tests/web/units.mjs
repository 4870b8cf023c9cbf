// Runs the app's own modules on cases that Python has written: node units.mjs UNITS.mjs FOLDER
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [, , units, folder] = process.argv;
const app = await import(units);
const arrays = await app.readNpz(new Uint8Array(readFileSync(join(folder, "cases.npz"))));
const cases = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8"));
const picture = (name) => {
  const { data, dims } = arrays[name];
  return { data, height: dims[0], width: dims[1] };
};
/** Stands for a restorer: what it makes of a pixel depends on its place in the tile. */
const halved = async (tile) => Float32Array.from(tile.data, (value, i) => value / 2 + (i % 7) / 4);
const packed = ({ data, height, width }) => ({ height, width, data: Buffer.from(data).toString("base64") });

const kinds = {
  prepare: ({ image, spec }) => packed(app.prepare(picture(image), spec)),
  resize: ({ image, height, width, interpolation, box }) =>
    packed(app.resize(picture(image), height, width, interpolation, box ?? undefined)),
  tiled: async ({ image, size, overlap }) => packed(await app.runTiled(halved, picture(image), size, overlap)),
  strength: async ({ image, strength }) => {
    const darker = async (one) => ({ ...one, data: one.data.map((value) => value * 0.7) });
    return packed(await app.adjusted(picture(image), darker, strength));
  },
  tile: ({ height, width, spec, variant, limit }) => app.tileFor(height, width, spec, variant, limit),
  decide: ({ levels, scores }) => app.decide(scores, app.leafPaths(levels)),
  depth: ({ maps, metric }) => {
    let range = null;
    return maps.map((name) => {
      const { data, dims } = arrays[name];
      range = app.movedRange(data, range);
      return { range, ...packed(app.colored(data, dims[0], dims[1], range, metric)) };
    });
  },
  masks: ({ probs, image }) => {
    const { data, dims } = arrays[probs], photo = picture(image);
    const classes = app.classesAt(data, dims, photo.height, photo.width);
    const labels = Array.from({ length: dims[0] }, (_, k) => `c${k}`);
    return { parts: app.partsOf(data, dims, labels), ...packed(app.painted(photo, classes, dims[0])) };
  },
  boxes: ({ heat, sides }) => {
    const { data, dims } = arrays[heat];
    return app.found(data, arrays[sides].data, dims[1], dims[2]);
  },
  precision: ({ answers, truth, classes }) => app.averagePrecision(answers, arrays[truth], classes),
  faults: async ({ artifact, precision, noise }) => {
    const manifest = app.parseManifest(new Uint8Array(readFileSync(join(artifact, "manifest.json"))));
    const bytes = new Uint8Array(readFileSync(join(artifact, "golden.npz")));
    const golden = await app.readGolden(bytes, manifest);
    const outputs = Object.fromEntries(Object.entries(golden.outputs).map(([name, all]) =>
      [name, all.map((one) => one.map((value, i) => value + arrays[noise].data[i % arrays[noise].data.length]))]));
    return app.faultsOf(manifest, precision, outputs, golden);
  },
  tasks: () => ({ answers: Object.keys(app.ANSWERS).sort(), figures: Object.keys(app.FIGURES).sort() }),
  variants: ({ artifact }) => {
    const manifest = app.parseManifest(new Uint8Array(readFileSync(join(artifact, "manifest.json"))));
    return app.webVariants(manifest).map(({ precision }) => precision);
  },
};

const answers = [];
for (const { kind, ...rest } of cases) answers.push(await kinds[kind](rest));
writeFileSync(join(folder, "answers.json"), JSON.stringify(answers));
