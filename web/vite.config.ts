// Two builds: the app (web/dist), and with `--mode units` the modules without a page (web/build/units.mjs) for the
// tests that hold them against Python.
import { resolve } from "node:path";
import { defineConfig, type Plugin, type UserConfig } from "vite";

const SERVICE_WORKER = "sw.js";
/** Larger than all else together, and of use only where the browser has WebGPU: kept for offline use once fetched. */
const LATER = /asyncify/;

/** Tells the service worker which files make up the app; they change their names with their content. */
function listAssets(): Plugin {
  return {
    name: "list-assets",
    generateBundle(_, bundle) {
      const names = Object.keys(bundle).filter((name) => name !== SERVICE_WORKER && !LATER.test(name));
      const worker = bundle[SERVICE_WORKER];
      if (worker?.type !== "chunk") return;
      worker.code = worker.code.replace(/["'`]__ASSETS__["'`]/, JSON.stringify(JSON.stringify(names.sort())));
    },
  };
}

const app: UserConfig = {
  base: "./",
  build: {
    target: "es2022",
    outDir: "dist",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      input: { index: resolve(import.meta.dirname, "index.html"), sw: resolve(import.meta.dirname, "src/sw.ts") },
      output: { entryFileNames: (chunk) => (chunk.name === "sw" ? SERVICE_WORKER : "assets/[name]-[hash].js") },
    },
    chunkSizeWarningLimit: 2000,
    reportCompressedSize: false,
  },
  worker: { format: "es" },
  plugins: [listAssets()],
};

/** Modules without a page have no worker either: tests put their own in its place. */
function withoutWorker(): Plugin {
  const place = 'new URL("./worker.ts", import.meta.url)';
  return {
    name: "without-worker",
    enforce: "pre",
    transform: (code, id) => (id.endsWith("client.ts") ? code.replace(place, '"worker.ts"') : null),
  };
}

const units: UserConfig = {
  plugins: [withoutWorker()],
  build: {
    target: "es2022",
    outDir: "build",
    lib: { entry: resolve(import.meta.dirname, "src/units.ts"), formats: ["es"], fileName: () => "units.mjs" },
    copyPublicDir: false,
  },
};

export default defineConfig(({ mode }) => (mode === "units" ? units : app));
