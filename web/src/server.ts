// What the page asks the server for: what there is, and files of models with progress.

export interface Offer {
  name: string;
  version: string;
  task: string;
  title: string;
  bytes: number;
  manifest_sha256: string;
  /** The signed channel.json as text; null where the model came over no channel. */
  description: string | null;
}

export interface Config {
  server: string;
  models: Offer[];
  keys: string[];
}

export type Progress = (received: number) => void;

export class Unreachable extends Error {}
export class TokenNeeded extends Error {}

const TOKEN = "pocketvit-token";

/** The token behind # in the address (from the QR code), kept for the next time; it is taken out of the address. */
export function takeToken(): void {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  localStorage.setItem(TOKEN, given);
  history.replaceState(null, "", location.pathname + location.search);
}

export function setToken(token: string): void {
  localStorage.setItem(TOKEN, token);
}

export function authorization(): HeadersInit {
  const token = localStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** A server that is out of reach often does not refuse but is silent, for minutes. */
const CONFIG_MS = 8_000, STALL_MS = 30_000;

async function ask(path: string, signal: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { headers: authorization(), cache: "no-store", signal });
  } catch (error) {
    throw new Unreachable(String(error));
  }
  if (response.status === 401) throw new TokenNeeded("the server wants its token");
  // It shuts down, or has another version by now: the next look is another try.
  if (!response.ok) throw new Unreachable(`the server answered ${response.status} for ${path}`);
  return response;
}

export async function config(): Promise<Config> {
  const response = await ask("config.json", AbortSignal.timeout(CONFIG_MS));
  try {
    return (await response.json()) as Config;
  } catch (error) {
    throw new Unreachable(String(error)); // it broke off, or something else answers there
  }
}

/** A file of at most `most` bytes; more is refused while it comes. */
export async function file(offer: Offer, path: string, most: number, progress: Progress): Promise<Uint8Array> {
  const [name, version, last] = [offer.name, offer.version, path].map(encodeURIComponent);
  const stall = new AbortController();
  let timer = setTimeout(() => stall.abort(), STALL_MS);
  const response = await ask(`models/${name}/${version}/files/${last}`, stall.signal).finally(() => clearTimeout(timer));
  const reader = response.body!.getReader(), parts: Uint8Array[] = [];
  let have = 0;
  for (;;) {
    let part;
    timer = setTimeout(() => stall.abort(), STALL_MS);
    try {
      part = await reader.read();
    } catch (error) {
      throw new Unreachable(String(error)); // it broke off, or hangs
    } finally {
      clearTimeout(timer);
    }
    if (part.done) break;
    have += part.value.length;
    if (have > most) {
      stall.abort();
      throw new Error(`${path} is larger than it should be`);
    }
    parts.push(part.value);
    progress(part.value.length);
  }
  const whole = new Uint8Array(have);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
