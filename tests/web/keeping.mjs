// Drives the app's keeper of models against a store, a server and an engine that are stand-ins: node keeping.mjs UNITS
// Writes an object with what each story saw. A variant's file says what the engine makes of it.
const [, , units] = process.argv;
const kept = new Map([["pocketvit-model", "m"]]);
Object.assign(globalThis, {
  localStorage: { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) },
  crossOriginIsolated: false,
  navigator: { hardwareConcurrency: 1 },
});

/** Answers as the engine does; `alive` are those that were not ended. `mute` says of which questions it answers none. */
const alive = new Set();
let mute = () => false;
globalThis.Worker = class {
  constructor() {
    alive.add(this);
  }
  addEventListener(kind, take) {
    if (kind === "message") this.take = take;
  }
  terminate() {
    alive.delete(this);
  }
  postMessage({ id, kind, args }) {
    const content = kind === "open" ? Buffer.from(args.bytes).toString() : this.content;
    this.content = content;
    if (mute(kind, content)) return;
    const fault = kind === "open" && { memory: ["memory", "bad_alloc"], lacks: ["other", "ERROR_CODE: 9"] }[content];
    const value = kind === "prove" ? { faults: content === "wrong" ? ["max_abs"] : [] } : { session: 1, threads: 1 };
    const data = fault ? { id, ok: false, trouble: fault[0], message: fault[1] } : { id, ok: true, value };
    queueMicrotask(() => this.take({ data }));
  }
};

const app = await import(units);

const hex = async (bytes) => Buffer.from(await crypto.subtle.digest("SHA-256", bytes)).toString("hex");

/** An offer of a version with a file for each of `contents`, the chosen one first, and the files it is made of. */
async function version(number, contents) {
  const names = ["int8", "fp32", "fp16"].slice(0, contents.length);
  const files = { "golden.npz": Buffer.from("golden") };
  names.forEach((name, i) => (files[`${name}.onnx`] = Buffer.from(contents[i])));
  const entries = Object.entries(files).map(async ([path, data]) =>
    ({ path, bytes: data.length, sha256: await hex(data) }));
  const manifest = {
    ...{ schema_version: 1, name: "m", version: number, task: "restore", levels: [], inputs: [], outputs: [] },
    files: await Promise.all(entries), default: "onnxruntime:int8",
    variants: names.map((precision) => ({ runtime: "onnxruntime", precision, path: `${precision}.onnx` })),
  };
  files["manifest.json"] = Buffer.from(JSON.stringify(manifest));
  const digest = await hex(files["manifest.json"]);
  return { files, offer: { name: "m", version: number, manifest_sha256: digest, description: null } };
}

class FakeStore {
  states_ = new Map();
  files = new Map();
  full = false;
  async get() {}
  async set() {}
  async state(name) {
    const fresh = { name, task: "", current: null, previous: null, counter: 0, payloadSha256: "", refused: [] };
    return structuredClone(this.states_.get(name) ?? fresh);
  }
  async states() {
    return structuredClone([...this.states_.values()]);
  }
  async setState(state) {
    this.states_.set(state.name, structuredClone(state));
  }
  async file(digest, path) {
    return this.files.get(`${digest}/${path}`);
  }
  async install(state, digest, files) {
    if (this.full) throw new Error("QuotaExceededError");
    for (const [path, content] of Object.entries(files)) this.files.set(`${digest}/${path}`, content);
    await this.setState(state);
  }
  async sweep() {}
}

/** A page with what it showed, what it fetched, and a server that `serve` gives another version. */
function page() {
  alive.clear();
  const seen = [], fetched = [], store = new FakeStore();
  let served = null, gate = null;
  const shown = new Proxy({}, { get: (_, name) => (...args) => {
    if (name === "refused") seen.push(`refused ${args[0].reason}${args[2] ? " first" : ""}`);
    else if (name === "failed") seen.push(`failed ${args[0].message}`);
    else if (name === "silent") seen.push(`silent during ${args[0].during}`);
    else if (["running", "rolledBack", "offline"].includes(name)) seen.push(name);
  } });
  globalThis.fetch = async (path) => {
    if (path === "config.json") return Response.json({ server: "", models: [served.offer], keys: [] });
    const name = path.split("/").pop();
    fetched.push(name);
    await gate;
    return served.files[name] ? new Response(served.files[name]) : Promise.reject(new Error("reset"));
  };
  const keeper = new app.Keeper(store, shown, false);
  return {
    keeper, store, seen, fetched,
    serve: (version) => (served = version),
    hold: (promise) => (gate = promise),
    runs: () => keeper.running && `${keeper.running.manifest.version} ${keeper.running.variant}`,
    take: () => ({ seen: seen.splice(0), fetched: fetched.splice(0).filter((name) => name.endsWith(".onnx")) }),
  };
}

/** Runs `work` with workers that answer none of the first `times` questions of `kind` about a file of `content`. */
async function muted(kind, content, times, work) {
  app.InferenceWorker.patience = { start: 4, open: 3, run: 2, tickMs: 5 };
  mute = (asked, file) => asked === kind && (!content || file === content) && times-- > 0;
  await work();
  mute = () => false;
}

const stories = {
  /** A worker that does not answer while a first version loads. */
  async muteLoading({ kind, times, contents }) {
    const one = page();
    one.serve(await version("1.0.0", contents));
    await muted(kind, contents[0], times, () => one.keeper.check());
    return { ...one.take(), runs: one.runs(), alive: alive.size };
  },
  /** One that does not answer a frame, so often; `fresh` where the version that runs has just come. */
  async muteRunning({ times, fresh }) {
    const one = page(), found = [];
    for (const number of fresh ? ["1.0.0", "2.0.0"] : ["1.0.0"]) {
      one.serve(await version(number, ["good"]));
      await one.keeper.check();
    }
    one.take();
    await muted("answer", null, times, async () => {
      for (let i = 0; i <= times && one.keeper.running; i++) {
        const running = one.keeper.running;
        const error = await running.worker.ask("answer", {}).then(() => null, (error) => error);
        found.push(error && [error.trouble, error.during]);
        if (error) await one.keeper.restart(running, error);
        else await one.keeper.report(true);
      }
    });
    return { ...one.take(), found, runs: one.runs(), alive: alive.size };
  },
  /** Many short runs for one question take longer than one may. */
  async slow({ alive: signs }) {
    app.InferenceWorker.patience = { start: 4, open: 3, run: 4, tickMs: 5 };
    mute = (kind) => kind === "answer";
    const worker = new app.InferenceWorker();
    await worker.ask("open", { bytes: Buffer.from("good"), options: {} });
    const [own] = [...alive].slice(-1), asked = worker.ask("answer", {}).then(() => "answered", (error) => error.trouble);
    for (let i = 0; i < 8; i++) {
      await new Promise((resolve) => setTimeout(resolve, 8));
      if (signs) own.take({ data: { id: 0, ok: true, value: null } });
    }
    own.take({ data: { id: 2, ok: true, value: null } });
    mute = () => false;
    return [await asked, await worker.ask("reset", {}).then(() => "asked", (error) => error.message)];
  },
  /** An update that cannot be opened, then the next look, then Retry. */
  async update({ contents, full }) {
    const one = page();
    one.serve(await version("1.0.0", ["good"]));
    await one.keeper.check();
    one.take();
    one.store.full = full;
    one.serve(await version("2.0.0", contents));
    const looks = [];
    for (const again of [false, false, true]) {
      await one.keeper.check(again);
      looks.push({ ...one.take(), runs: one.runs(), alive: alive.size });
    }
    return looks;
  },
  /** The same where nothing is installed. */
  async first({ contents }) {
    const one = page();
    one.serve(await version("1.0.0", contents));
    const looks = [];
    for (let i = 0; i < 2; i++) {
      await one.keeper.check();
      const { refused } = await one.store.state("m");
      looks.push({ ...one.take(), runs: one.runs(), alive: alive.size, refused: refused.length });
    }
    return looks;
  },
  /** A version whose answers fail while the next one comes down. */
  async rollBack({ next }) {
    const one = page();
    for (const number of ["1.0.0", "2.0.0"]) {
      one.serve(await version(number, ["good"]));
      await one.keeper.check();
    }
    let release;
    one.hold(new Promise((resolve) => (release = resolve)));
    one.serve(await version("3.0.0", next));
    one.take();
    const looking = one.keeper.check();
    while (!one.fetched.length) await new Promise((resolve) => setTimeout(resolve, 1));
    await one.keeper.report(false);
    await one.keeper.report(false);
    const reported = one.keeper.report(false);
    release();
    await Promise.all([looking, reported]);
    const { current, refused } = await one.store.state("m");
    return { runs: one.runs(), current: current.version, refused: refused.length, alive: alive.size, ...one.take() };
  },
  /** What people do while the browser asks for the camera; which of its streams are on in the end. */
  async camera({ acts, answers }) {
    const asked = [], video = { play: async () => undefined };
    globalThis.document = { createElement: () => ({}) };
    navigator.mediaDevices = { getUserMedia: () => new Promise((resolve) => asked.push({ resolve })) };
    const camera = new app.Camera(video), starts = [];
    for (const act of acts) {
      if (act === "start") starts.push(camera.start(640));
      else camera[act]();
    }
    const tracks = asked.map(() => ({ on: true, stop() { this.on = false; }, addEventListener() {} }));
    for (const i of answers) {
      const stream = { getTracks: () => [tracks[i]], getVideoTracks: () => [tracks[i]] };
      asked[i].resolve(stream);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    const before = tracks.map((track) => track.on), started = await Promise.all(starts), on = camera.on;
    camera.stop();
    return { started, before, on, after: tracks.some((track) => track.on) };
  },
  /** A server that goes silent before its answer or amid the file; time is the test's. */
  async silent({ amid }) {
    const { mock } = await import("node:test");
    mock.timers.enable({ apis: ["setTimeout"] });
    globalThis.fetch = (path, { signal }) => new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      const start = (control) => {
        control.enqueue(new Uint8Array(3));
        signal.addEventListener("abort", () => control.error(signal.reason));
      };
      if (amid) resolve(new Response(new ReadableStream({ start })));
    });
    const offer = { name: "m", version: "1.0.0" }, came = [];
    const found = app.file(offer, "x.onnx", 9, (bytes) => came.push(bytes))
      .then(() => "whole", (error) => (error instanceof app.Unreachable ? "unreachable" : String(error)));
    const answers = [];
    for (const ms of [29_000, 2_000]) {
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
      mock.timers.tick(ms);
      answers.push(await Promise.race([found, new Promise((resolve) => setImmediate(resolve, "waits"))]));
    }
    mock.timers.reset();
    return { answers, came };
  },
  /** What the service worker gives for the page and for another file where the server answers with `status`. */
  async shell({ worker, status, kept }) {
    const listeners = {}, pages = new Map(kept ? [["./", "kept"], ["icon.png", "kept"]] : []);
    const scope = "https://phone.test/phone/";
    const cache = { match: async (asked) => {
      const found = pages.get(typeof asked === "string" ? asked : asked.url.slice(scope.length));
      return found && new Response(found);
    } };
    globalThis.self = { registration: { scope }, addEventListener: (kind, run) => (listeners[kind] = run) };
    globalThis.caches = { open: async () => cache };
    globalThis.fetch = async () => (status ? new Response("new", { status }) : Promise.reject(new TypeError("gone")));
    await import(`${worker}?${status}${kept}`);
    const answer = async (name, mode) => {
      let given;
      const request = { method: "GET", url: scope + name, mode };
      listeners.fetch({ request, respondWith: (response) => (given = response) });
      return (await given).text();
    };
    return [await answer("", "navigate"), await answer("icon.png", "no-cors")];
  },
  /** A connection that is lost before the second variant is there, and comes back. */
  async lost() {
    const one = page(), whole = await version("1.0.0", ["lacks", "good"]), { "fp32.onnx": _, ...files } = whole.files;
    const looks = [];
    for (const served of [{ ...whole, files }, whole]) {
      one.serve(served);
      await one.keeper.check();
      looks.push({ ...one.take(), runs: one.runs() });
    }
    return looks;
  },
  /** Something unsigned is offered where a counter was seen; `runs` is the digest of what is installed. */
  async unsigned({ counter, runs, offered }) {
    const state = {
      ...{ name: "m", task: "restore", previous: null, counter, payloadSha256: "x", refused: [] },
      current: runs && { manifestSha256: runs, keyId: "", counter: 0, version: "1.0.0" },
    };
    const offer = { name: "m", version: "9.9.9", manifest_sha256: offered, description: null };
    const found = app.trusted(new FakeStore(), state, offer, []);
    return found.then(({ manifestSha256 }) => manifestSha256, (error) => `refused ${error.reason}`);
  },
};

const text = await new Promise((resolve) => {
  let all = "";
  process.stdin.on("data", (part) => (all += part)).on("end", () => resolve(all));
});
const answers = [];
for (const { story, ...args } of JSON.parse(text)) answers.push(await stories[story](args));
process.stdout.write(JSON.stringify(answers));
