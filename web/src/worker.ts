// The inference worker: sessions by number, and the questions of protocol.ts. The page never blocks on any of it.
import { openSession, type Session } from "./engine";
import { agree, prove, type RunPixels } from "./golden";
import { variantOf } from "./manifest";
import { ALIVE } from "./protocol";
import type { Asked, Data, Kind, Opened, Question, Reply, Tensors, Trouble } from "./protocol";
import { answerFrame, type Follow } from "./tasks";

type Handlers = { [K in Kind]: (args: Asked[K]["args"]) => Promise<Asked[K]["reply"]> };

const sessions = new Map<number, Session>();
const follow: Follow = { range: null };
let last = 0;
let queue: Promise<void> = Promise.resolve();

const handlers: Handlers = {
  async open({ bytes, options }): Promise<Opened> {
    const began = performance.now(), opened = await openSession(bytes, options);
    sessions.set(++last, opened);
    const { backend, threads, version, inputs, outputs } = opened;
    const ms = performance.now() - began;
    return { session: last, backend, threads, version, inputs: [...inputs], outputs: [...outputs], ms };
  },
  async run({ session, inputs }) {
    const began = performance.now(), outputs = await runIn(session, inputs);
    return { outputs, ms: performance.now() - began };
  },
  async release({ session }) {
    await find(session).release();
    sessions.delete(session);
    return null;
  },
  prove: ({ session, manifest, precision, golden }) => prove(pixelsTo(session), manifest, precision, golden),
  agree: ({ first, second, manifest, precision, golden }) =>
    agree(pixelsTo(first), pixelsTo(second), manifest, precision, golden),
  answer: ({ session, manifest, variant, frame, strength }) =>
    answerFrame((inputs) => runIn(session, inputs), manifest, variantOf(manifest, variant), frame, strength, follow),
  async reset() {
    follow.range = null;
    return null;
  },
};

function find(session: number): Session {
  const found = sessions.get(session);
  if (!found) throw new Error(`there is no session ${session}`);
  return found;
}

/** A large photo in tiles, or all golden inputs, are many runs: the page hears of each that it is still being worked. */
async function runIn(session: number, inputs: Tensors): Promise<Tensors> {
  const outputs = await find(session).run(inputs);
  self.postMessage(ALIVE);
  return outputs;
}

function pixelsTo(session: number): RunPixels {
  return (data, dims) => runIn(session, { pixels: { dtype: "uint8", data, dims } });
}

/** An overflow in the engine's sizes is a tensor that cannot be addressed. */
const MEMORY = /out of memory|bad_alloc|allocat|cannot enlarge|memory access out of bounds|length_error|safeint/i;
const DAMAGED = /protobuf|invalid_protobuf|failed to load model|invalid model|no_model|invalid_graph|no output/i;

/** What kind of trouble an error is; engines throw texts, and sometimes bare numbers (C++ exceptions). */
export function troubleOf(error: unknown): Trouble {
  const text = String(error instanceof Error ? `${error.name} ${error.message}` : error);
  if (MEMORY.test(text) || error instanceof RangeError || typeof error === "number") return "memory";
  return DAMAGED.test(text) ? "damaged" : "other";
}

function transfers(value: unknown): Transferable[] {
  const found: Transferable[] = [];
  const answer = value as { outputs?: Tensors; rgba?: Data; frame?: { rgba: Data } } | null;
  for (const tensor of Object.values(answer?.outputs ?? {}) as { data?: Data }[]) {
    if (tensor.data?.buffer instanceof ArrayBuffer) found.push(tensor.data.buffer);
  }
  if (answer?.rgba) found.push(answer.rgba.buffer as ArrayBuffer);
  if (answer?.frame) found.push(answer.frame.rgba.buffer as ArrayBuffer);
  return [...new Set(found)];
}

async function handle({ id, kind, args }: Question): Promise<void> {
  let reply: Reply;
  try {
    reply = { id, ok: true, value: await (handlers[kind] as (args: unknown) => Promise<never>)(args) };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    reply = { id, ok: false, trouble: troubleOf(error), message };
  }
  self.postMessage(reply, { transfer: reply.ok && kind !== "open" ? transfers(reply.value) : [] });
}

self.postMessage(ALIVE);
self.addEventListener("message", (event: MessageEvent<Question>) => {
  queue = queue.then(() => handle(event.data)); // one after the other, in the order in which they came
});
